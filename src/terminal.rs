//! Writing to the terminal or to what is there instead of one.

use std::io::{self, IsTerminal, Write};

/// Writes to standard output.
///
/// # Errors
/// When it is closed, as by `| head`.
pub(crate) fn out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes to standard error.
///
/// # Errors
/// When it is closed.
pub(crate) fn err(text: &str) -> io::Result<()> {
    io::stderr().lock().write_all(text.as_bytes())
}

/// What a stream can show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Style {
    /// Escape sequences for colours are wanted.
    pub(crate) color: bool,
    /// A line can be drawn again: columns of the terminal.
    pub(crate) columns: Option<usize>,
}

impl Style {
    /// Neither colours nor progress bars.
    pub(crate) const PLAIN: Self = Self { color: false, columns: None };

    /// What standard output can show.
    pub(crate) fn of_stdout() -> Self {
        Self::of(&io::stdout())
    }

    /// What standard error can show.
    pub(crate) fn of_stderr() -> Self {
        Self::of(&io::stderr())
    }

    /// `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` are respected.
    fn of(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Self {
        if !stream.is_terminal() {
            return Self::PLAIN;
        }
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = rustix::termios::tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col));
        let columns = size.filter(|columns| *columns > 0).unwrap_or(80);
        Self { color: !dumb && !refused, columns: (!dumb).then_some(columns) }
    }

    /// The text in a colour, where colours are wanted.
    pub(crate) fn paint(self, color: Color, text: &str) -> String {
        if self.color { format!("\x1b[{}m{text}\x1b[0m", color.code()) } else { text.to_owned() }
    }
}

/// A colour of the terminal's own palette, so that it suits dark and light ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Color {
    Bold,
    Dim,
    Good,
    /// One of the colours for names, by number.
    Name(usize),
    Bad,
    Warn,
}

impl Color {
    fn code(self) -> &'static str {
        const NAMES: [&str; 6] = ["36", "35", "34", "33", "32", "96"];
        match self {
            Self::Bad => "31",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Name(number) => NAMES[number % NAMES.len()],
            Self::Warn => "33",
        }
    }
}

/// What came from outside, unable to drive the terminal: colours stay where colours are wanted and are dropped
/// elsewhere, every other control character is shown instead of obeyed.
pub(crate) fn printable(text: &str, style: Style) -> String {
    if !text.contains(|c: char| c.is_control() && c != '\t') {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    let mut coloured = false;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = color_sequence(rest) {
            if style.color {
                shown.push_str(&rest[..length]);
                coloured = true;
            }
            rest = &rest[length..];
            continue;
        }
        if c.is_control() && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    if coloured {
        shown.push_str("\x1b[0m");
    }
    shown
}

/// The length of the sequence `ESC [ digits and semicolons m` that the text starts with.
fn color_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[length..].starts_with('m').then_some(length + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_where_not_wanted() {
        assert_eq!(Style::PLAIN.paint(Color::Bad, "x"), "x");
        let style = Style { color: true, columns: None };
        assert_eq!(style.paint(Color::Bad, "x"), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn escapes_from_outside_are_shown_not_obeyed() {
        let style = Style { color: true, columns: None };
        assert_eq!(printable("a\tb", style), "a\tb");
        assert_eq!(printable("\x1b[2Jx", style), "\\u{1b}[2Jx");
        assert_eq!(printable("\x1b[1;32mok\x1b[0m\r", style), "\x1b[1;32mok\x1b[0m\\r\x1b[0m");
        assert_eq!(printable("\x1b[1;32mok\x1b[m", Style::PLAIN), "ok");
        assert_eq!(printable("\x1b[3", style), "\\u{1b}[3");
    }
}
