//! The help texts, as they are.

use std::process::Command;

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vaquita"))
        .arg("image")
        .args(args)
        .arg("-h")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // The options of the node are those of every command.
    text.split("\nNode (also from the environment").next().unwrap().to_owned()
}

#[test]
fn help_reads_well() {
    let all = help(&[]);
    let commands =
        all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a line goes on with stands further to the right.
    let names = commands.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let commands: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let mut text = all.clone();
    for command in commands {
        text.push_str(&format!("\n==== {command}\n\n{}", help(&[command])));
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    insta::assert_snapshot!("vaquita_image_help", text);
}
