//! The architecture's invariants (ARCHITECTURE.md), one file per check. Each looks at the [`Tree`] and answers with what is
//! wrong, a line each; each has a test that shows it a tree it must refuse.

mod bounded;
mod decisions;
mod file_size;
mod layers;
mod links;
mod manifests;
mod only_mast;
mod openapi;
mod portable;
mod serve_is_pure;
mod sled_stays;
mod tree;
mod unsafe_code;

use anyhow::{Result, bail};

pub(crate) use tree::Tree;

type Check = fn(&Tree) -> Result<Vec<String>>;

const CHECKS: [(&str, Check); 12] = [
    ("1 serve builds without front, runtime, MQTT or disk crates", serve_is_pure::check),
    ("2 a heavy dependency has one manifest, a version one place", manifests::check),
    ("2 no sled type leaves the journal", sled_stays::check),
    ("3 crates point one way, link sees only egress", layers::check),
    ("4 only mast reads the environment, handles signals, exits", only_mast::check),
    ("6 every channel is bounded", bounded::check),
    ("8 no file over 500 lines", file_size::check),
    ("  unsafe code only in the engine crates, with its reason", unsafe_code::check),
    ("  decisions are numbered once", decisions::check),
    ("  no registry host and no path of one machine", portable::check),
    ("  the OpenAPI document and the routes agree", openapi::check),
    ("  links between documents lead somewhere", links::check),
];

/// Runs every check on the work tree.
pub(crate) fn run(root: &std::path::Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let mut wrong = 0;
    for (name, check) in CHECKS {
        let found = check(&tree)?;
        println!("  {} {name}", if found.is_empty() { "ok    " } else { "BROKEN" });
        for line in &found {
            println!("           {line}");
        }
        wrong += found.len();
    }
    println!("  median Rust file: {} lines", file_size::median(&tree));
    if wrong > 0 {
        bail!("{wrong} breaches of the invariants");
    }
    Ok(())
}
