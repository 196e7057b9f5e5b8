//! Standard output and error, and a line at the bottom that is drawn again and again.

use std::time::Duration;

use crate::terminal::{self, Style};

/// Where a run is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    columns: Option<usize>,
    transient: String,
    drawn: bool,
    closed: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { columns: Style::of_stderr().columns, transient: String::new(), drawn: false, closed: false }
    }

    /// Whether standard output was closed by who read it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes to standard output.
    pub(crate) fn out(&mut self, text: &str) {
        if text.is_empty() || self.closed {
            return;
        }
        self.erase();
        self.closed = terminal::out(text).is_err();
    }

    /// Writes to standard error. Where that is closed nobody misses it.
    pub(crate) fn err(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.erase();
        let _ = terminal::err(text);
    }

    /// Sets the line at the bottom, on a terminal.
    pub(crate) fn transient(&mut self, line: Option<String>) {
        let Some(columns) = self.columns else { return };
        self.transient = line.unwrap_or_default().chars().take(columns.saturating_sub(1)).collect();
        if self.transient.is_empty() {
            self.erase();
        }
    }

    /// Draws the line when the rest has been still for a moment.
    pub(crate) async fn refresh(&mut self) {
        if self.transient.is_empty() || self.drawn {
            std::future::pending().await
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        let _ = terminal::err(&format!("\r\x1b[K{}", self.transient));
        self.drawn = true;
    }

    /// Leaves the terminal as a shell wants it.
    pub(crate) fn close(&mut self) {
        self.transient.clear();
        self.erase();
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = terminal::err("\r\x1b[K");
        }
    }
}
