//! Makes what `src/` embeds: the table of types with its index, and their descriptions.

use std::path::Path;
use std::{env, fs};

#[path = "build/table.rs"]
mod table;
#[path = "build/words.rs"]
mod words;

fn main() {
    println!("cargo::rerun-if-changed=types.txt");
    println!("cargo::rerun-if-changed=build");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let facts = fs::read_to_string("types.txt").expect("types.txt lies beside build.rs");
    table::write(&facts, Path::new(&out));
    words::write(Path::new(&out));
}
