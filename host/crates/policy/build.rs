//! Tells the sandbox what its dependencies are locked to, so that compiled policies of another build are told apart.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

const LOCK: &str = "../../../Cargo.lock";

fn main() {
    println!("cargo:rerun-if-changed={LOCK}");
    let mut hash = DefaultHasher::new();
    // Without the file, as in a package, the version alone tells builds apart.
    fs::read(LOCK).unwrap_or_default().hash(&mut hash);
    println!("cargo:rustc-env=CUTOVER_LOCK={:016x}", hash.finish());
}
