//! What pulls left that did not come to their end: beginnings of layers, and whole layers that no image has.
//!
//! They make the next pull of the same image shorter, and they are of no other use: they go after a day, and as soon as the disk is short.

use std::sync::Arc;
use std::time::Duration;

use crate::{Digest, Error};

use super::Inner;
use super::state::Layer;

/// What nobody took up for so long is removed.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Room that a pull may take for each byte that it has to fetch: compressed, and unpacked.
const GROWTH: u64 = 4;

/// Which leftovers go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sweep<'a> {
    /// Those that are old, and all of them where the disk is short.
    Stale,
    /// The same for a pull of so many bytes; what it can use, compressed layers or chain ids, stays.
    For(u64, &'a [Digest]),
    /// All of them.
    All,
    /// These compressed layers and chain ids: their pull has failed in a way that another one will not better.
    These(&'a [Digest]),
}

impl Inner {
    /// Removes leftovers. How many bytes are free then. Blocks while trees are deleted.
    pub(crate) fn sweep_leftovers(&self, sweep: Sweep<'_>) -> Result<u64, Error> {
        let is_short = match sweep {
            Sweep::Stale => self.is_short(0)?,
            Sweep::For(bytes, _) => self.is_short(bytes)?,
            Sweep::All | Sweep::These(_) => false,
        };
        let goes = |digest: &Digest, age: Option<Duration>| match sweep {
            Sweep::Stale => is_short || is_stale(age),
            Sweep::For(_, wanted) => !wanted.contains(digest) && (is_short || is_stale(age)),
            Sweep::All => true,
            Sweep::These(those) => those.contains(digest),
        };
        let mut freed = 0;
        for idle in self.layout.partials.idle()? {
            if goes(&idle.digest, idle.age) {
                freed += self.layout.partials.remove_idle(&idle.digest);
            }
        }
        let unused = {
            let layout = &self.layout;
            let goes = |layer: &Layer| {
                !layer.is_recorded() && goes(&layer.chain, layout.layer_age(layer.record.number))
            };
            self.state().forget_unused(goes)
        };
        Ok(freed + self.remove_layers(&unused)?.bytes)
    }

    /// Whether a pull that fetches so many bytes needs the room that leftovers take.
    fn is_short(&self, bytes: u64) -> Result<bool, Error> {
        let space = self.layout.space()?;
        let spared = u128::from(space.bytes) * u128::from(self.options.spare_percent) / 100;
        let needed = u128::from(bytes) * u128::from(GROWTH);
        Ok(u128::from(space.bytes_available) < spared.max(needed))
    }

    /// Whether there is room to keep the compressed bytes of a pull beside what is unpacked from them.
    pub(crate) fn may_keep(&self, bytes: u64) -> bool {
        self.is_short(bytes).is_ok_and(|is_short| !is_short)
    }

    /// Puts whole layers that no image has where pulls find them. With `is_lost` the log is new: then also those that it had, and
    /// the clock for them starts now.
    pub(super) fn recover_leftovers(
        &self,
        state: &mut super::State,
        numbers: &[u32],
        is_lost: bool,
    ) -> Result<(), Error> {
        let recorded: std::collections::HashSet<u32> =
            state.layers.values().map(|layer| layer.record.number).collect();
        for number in numbers.iter().filter(|number| !recorded.contains(number)) {
            let Some(note) = self.layout.read_note(*number, is_lost) else { continue };
            let usage = self.layout.layer_usage(*number)?;
            let record = super::db::LayerRecord {
                number: *number,
                diff_id: note.diff_id,
                bytes: usage.bytes,
                inodes: usage.inodes,
            };
            let layer = Layer::fresh(note.chain, record, note.implicit);
            state.layers.entry(note.chain).or_insert_with(|| Arc::new(layer));
        }
        Ok(())
    }
}

/// Where the clock was turned back, the age is not known, and it stays until the clock is right or the disk is short.
fn is_stale(age: Option<Duration>) -> bool {
    age.is_some_and(|age| age > PATIENCE)
}
