//! The figures as a text table, as JSON, and as a plot of ratios.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::AnyError;

/// Which direction of a figure is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    better: Better,
    values: Vec<Option<f64>>,
}

impl Row {
    /// How many times better the first column is than another.
    fn ratio(&self, column: usize) -> Option<f64> {
        let (Some(Some(ours)), Some(Some(theirs))) = (self.values.first(), self.values.get(column)) else {
            return None;
        };
        let ratio = if self.better == Better::Lower { theirs / ours } else { ours / theirs };
        ratio.is_finite().then_some(ratio)
    }
}

/// Everything that one run has measured.
#[derive(Debug)]
pub(crate) struct Report {
    peers: Vec<(String, String)>,
    rows: Vec<Row>,
}

impl Report {
    /// An empty table with a column for each peer.
    pub(crate) fn new(peers: impl IntoIterator<Item = String>) -> Self {
        Self { peers: peers.into_iter().map(|name| (name, String::new())).collect(), rows: Vec::new() }
    }

    /// What a peer calls itself.
    pub(crate) fn version(&mut self, peer: &str, version: String) {
        if let Some(column) = self.peers.iter_mut().find(|(name, _)| *name == peer) {
            column.1 = version;
        }
    }

    /// Enters one figure.
    pub(crate) fn row(&mut self, name: &str, unit: &'static str, better: Better, peer: &str, value: f64) {
        let Some(column) = self.peers.iter().position(|(name, _)| *name == peer) else { return };
        let index = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let values = vec![None; self.peers.len()];
            self.rows.push(Row { name: name.to_owned(), unit, better, values });
            self.rows.len() - 1
        });
        self.rows[index].values[column] = Some(value);
    }

    /// Prints the table, and writes it as text, JSON and plot to files `name`.* in `dir`.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> Result<(), AnyError> {
        let text = self.text();
        print!("{text}");
        std::fs::create_dir_all(dir)?;
        let file = |end: &str| dir.join(format!("{name}.{end}"));
        std::fs::write(file("txt"), &text)?;
        std::fs::write(file("json"), serde_json::to_vec_pretty(&self.json())?)?;
        std::fs::write(file("svg"), self.svg())?;
        println!("written: {0}/{name}.txt {0}/{name}.json {0}/{name}.svg", dir.display());
        Ok(())
    }

    /// The table for people.
    fn text(&self) -> String {
        let mut text = format!("{}\n\n", machine());
        for (name, version) in &self.peers {
            let _ = writeln!(text, "{name}: {version}");
        }
        let _ = write!(text, "\n{:<38}", "");
        for (name, _) in &self.peers {
            let _ = write!(text, "{name:>14}");
        }
        for (name, _) in self.peers.iter().skip(1) {
            let _ = write!(text, "{:>15}", format!("to {name}"));
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "{:<38}", row.name);
            for value in &row.values {
                let cell =
                    value.map_or_else(|| "-".to_owned(), |value| format!("{} {}", figure(value), row.unit));
                let _ = write!(text, "{:>14}", cell.trim_end());
            }
            for column in 1..self.peers.len() {
                let cell = row.ratio(column).map_or_else(String::new, |ratio| format!("{}x", figure(ratio)));
                let _ = write!(text, "{cell:>15}");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// The same for programs.
    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let values =
                    self.peers.iter().zip(&row.values).map(|((name, _), value)| (name.clone(), json!(value)));
                let values: serde_json::Map<String, Value> = values.collect();
                let others = self.peers.iter().enumerate().skip(1);
                let ratios = others.map(|(column, (name, _))| (name.clone(), json!(row.ratio(column))));
                let ratios: serde_json::Map<String, Value> = ratios.collect();
                json!({ "name": row.name, "unit": row.unit, "values": values, "ratios": ratios })
            })
            .collect();
        json!({ "machine": machine(), "rows": rows })
    }

    /// Bars of how many times better the first peer is than the second, on a logarithmic axis.
    fn svg(&self) -> String {
        let than = self.peers.get(1).map_or("nothing", |(name, _)| name);
        let bars: Vec<(&Row, f64)> = self.rows.iter().filter_map(|row| Some((row, row.ratio(1)?))).collect();
        let (label, width, line, top) = (290.0, 420.0, 24.0, 60.0);
        let height = f64::from(u32::try_from(bars.len()).unwrap_or(u32::MAX)).mul_add(line, top + 30.0);
        let most = bars.iter().map(|(_, ratio)| ratio.max(1.0 / ratio)).fold(10.0, f64::max).log10();
        let x =
            |ratio: f64| (ratio.log10().clamp(-most, most) / most).mul_add(width / 2.0, label + width / 2.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"16\" y=\"24\" font-size=\"15\">How many times better than {than} (log scale)</text>\n\
             <text x=\"16\" y=\"42\" fill=\"#666\">{1}</text>\n",
            label + width + 90.0,
            machine()
        );
        for (index, (row, ratio)) in bars.iter().enumerate() {
            let y = f64::from(u32::try_from(index).unwrap_or(u32::MAX)).mul_add(line, top);
            let (from, to) = (x(1.0).min(x(*ratio)), x(1.0).max(x(*ratio)));
            let colour = if *ratio >= 1.0 { "#2a7f9e" } else { "#c0504d" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{from}\" y=\"{y}\" width=\"{}\" height=\"16\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"{}\">{}x</text>",
                label - 8.0,
                y + 12.0,
                row.name,
                (to - from).max(1.0),
                to + 6.0,
                y + 12.0,
                figure(*ratio)
            );
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{0}\" y1=\"{top}\" x2=\"{0}\" y2=\"{1}\" stroke=\"#333\"/>\n</svg>",
            x(1.0),
            height - 20.0
        );
        svg
    }
}

/// Three significant digits, no exponent.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn machine() -> String {
    let kernel = rustix::system::uname();
    let release = kernel.release().to_string_lossy();
    // The version without the distributor's suffix.
    let release = release.split('-').next().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let groups = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" };
    format!("Linux {release}, {cores} cores, cgroup {groups}")
}

/// The value in ms below which so many percent of them lie.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).map_or(f64::NAN, |&time| millis(time))
}

/// A time in ms.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number of things.
#[allow(clippy::cast_precision_loss, reason = "counts of pods, processes and calls")]
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}
