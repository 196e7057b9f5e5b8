//! Long answers in pieces: a list may be as long as it likes, a message may not.

use prost::Message;
use tonic::Status;

/// The most items of one message.
const ITEMS: usize = 1000;

/// The bytes after which a message is full, unless its first item alone is longer. Clients take up to 16 MiB.
const BYTES: usize = 1 << 20;

/// What a stream of a list's batches is made of.
pub(crate) struct Batches<T, M> {
    groups: Groups<T>,
    message: fn(Vec<T>) -> M,
}

/// A stream of `items`, in messages made by `message`; none where there are no items.
pub(super) fn batches<T: Message, M>(
    items: Vec<T>,
    message: fn(Vec<T>) -> M,
) -> tokio_stream::Iter<Batches<T, M>> {
    tokio_stream::iter(Batches { groups: groups(items, Message::encoded_len, BYTES), message })
}

impl<T, M> Iterator for Batches<T, M> {
    type Item = Result<M, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        self.groups.next().map(|group| Ok((self.message)(group)))
    }
}

/// The items of one message after another.
pub(crate) struct Groups<T> {
    items: std::vec::IntoIter<T>,
    /// One that did not fit any more, and how long it is.
    next: Option<(T, usize)>,
    length: fn(&T) -> usize,
    most: usize,
}

/// Cuts `items` into groups of at most `most` bytes, by their `length`, unless the first item alone is longer.
pub(crate) fn groups<T>(items: Vec<T>, length: fn(&T) -> usize, most: usize) -> Groups<T> {
    Groups { items: items.into_iter(), next: None, length, most }
}

impl<T> Iterator for Groups<T> {
    type Item = Vec<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = self.length;
        let measured = |item: T| {
            let bytes = length(&item);
            (item, bytes)
        };
        let (first, mut bytes) = self.next.take().or_else(|| self.items.next().map(measured))?;
        let mut group = vec![first];
        while group.len() < ITEMS {
            let Some((item, more)) = self.items.next().map(measured) else { break };
            if bytes + more > self.most {
                self.next = Some((item, more));
                break;
            }
            bytes += more;
            group.push(item);
        }
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vaquita_proto::cri::{Container, StreamContainersResponse};

    use super::*;

    fn cut(sizes: &[usize]) -> Vec<StreamContainersResponse> {
        let items = sizes.iter().enumerate().map(|(number, size)| Container {
            id: number.to_string(),
            image_ref: "x".repeat(*size),
            ..Default::default()
        });
        let message = |containers| StreamContainersResponse { containers };
        Batches { groups: groups(items.collect(), Message::encoded_len, BYTES), message }
            .collect::<Result<_, _>>()
            .unwrap()
    }

    #[test]
    fn full_by_number_by_bytes_and_by_one_item() {
        let lengths = |sizes: &[usize]| cut(sizes).iter().map(|one| one.containers.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [0_usize; 0]);
        assert_eq!(lengths(&[1; 2500]), [1000, 1000, 500]);
        assert_eq!(lengths(&[400 << 10; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[1, 2 << 20, 1]), [1, 1, 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Nothing is lost, doubled or moved, and no message of several items is longer than allowed.
        #[test]
        fn the_pieces_are_the_whole(sizes in prop::collection::vec(0_usize..300_000, 0..40)) {
            let pieces = cut(&sizes);
            for piece in &pieces {
                prop_assert!(!piece.containers.is_empty());
                // Each item has a key and a length of its own.
                let most = BYTES + 8 * piece.containers.len();
                prop_assert!(piece.containers.len() == 1 || piece.encoded_len() <= most);
            }
            let ids: Vec<_> = pieces.into_iter().flat_map(|piece| piece.containers).map(|one| one.id).collect();
            prop_assert_eq!(ids, (0..sizes.len()).map(|number| number.to_string()).collect::<Vec<_>>());
        }
    }
}
