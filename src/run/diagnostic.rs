//! What is wrong with a manifest, shown in the manifest.

use std::fmt::Write;

use vaquita_kube::manifest::Diagnostic;

use crate::terminal::{Color, Style, printable};

/// Columns of the source that are shown at most: a manifest in one line of JSON is still readable.
const WIDTH: usize = 100;

/// Every diagnostic with the line that it is about and a caret below the place.
pub(crate) fn render(diagnostics: &[Diagnostic], files: &[(&str, &str)], style: Style) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        one(&mut text, diagnostic, files, style);
    }
    let count = diagnostics.len();
    let summary = if count == 1 { "1 error".to_owned() } else { format!("{count} errors") };
    text + &format!("vaquita: {summary} in the manifest: nothing was started\n")
}

fn one(text: &mut String, diagnostic: &Diagnostic, files: &[(&str, &str)], style: Style) {
    let place = match diagnostic.line {
        0 => diagnostic.file.clone(),
        line => format!("{}:{line}:{}", diagnostic.file, diagnostic.column),
    };
    let path = match diagnostic.path.as_str() {
        "" => String::new(),
        path => format!("{path}: "),
    };
    let error = style.paint(Color::Bad, "error");
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}: {error}: {path}{}",
        style.paint(Color::Bold, &place),
        printable(&diagnostic.message, style)
    );
    if let Some(excerpt) = excerpt(diagnostic, files, style) {
        text.push_str(&excerpt);
    }
}

fn excerpt(diagnostic: &Diagnostic, files: &[(&str, &str)], style: Style) -> Option<String> {
    let (_, source) = files.iter().find(|(name, _)| *name == diagnostic.file)?;
    let line = source.lines().nth(diagnostic.line.checked_sub(1)?)?;
    let column = diagnostic.column.max(1) - 1;
    let skipped = if column < WIDTH { 0 } else { column - WIDTH / 2 };
    // A tab takes one column here, so that the caret stands where it should.
    let shown: String =
        line.chars().skip(skipped).take(WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let number = diagnostic.line.to_string();
    let margin = " ".repeat(number.len());
    let bar = style.paint(Color::Dim, "|");
    let caret = style.paint(Color::Bad, "^");
    let indent = " ".repeat(column - skipped);
    Some(format!("{margin} {bar}\n{number} {bar} {}\n{margin} {bar} {indent}{caret}\n", shown.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(line: usize, column: usize) -> Diagnostic {
        Diagnostic {
            file: "pod.yaml".into(),
            line,
            column,
            path: "spec.containers[0].imagee".into(),
            message: "unknown field; did you mean `image`?".into(),
        }
    }

    #[test]
    fn the_caret_stands_below_the_place() {
        let source = "spec:\n  containers:\n  - name: a\n    imagee: b\n";
        let text = render(&[diagnostic(4, 5)], &[("pod.yaml", source)], Style::PLAIN);
        assert_eq!(
            text,
            "pod.yaml:4:5: error: spec.containers[0].imagee: unknown field; did you mean `image`?\n\
             \u{20} |\n\
             4 |     imagee: b\n\
             \u{20} |     ^\n\
             vaquita: 1 error in the manifest: nothing was started\n"
        );
    }

    #[test]
    fn a_place_that_is_not_known_has_no_excerpt() {
        let text = render(&[diagnostic(0, 0), diagnostic(9, 1)], &[("pod.yaml", "a\n")], Style::PLAIN);
        assert!(text.starts_with("pod.yaml: error: spec."), "{text}");
        assert!(!text.contains('^') && text.contains("2 errors"), "{text}");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let source = "é".repeat(1000);
        let text = render(&[diagnostic(1, 501)], &[("pod.yaml", &source)], Style::PLAIN);
        let caret = text.lines().nth(3).unwrap();
        assert_eq!(caret.chars().count(), 4 + 50 + 1);
    }
}
