//! Interpreters recurse where policies do not: a function of a script that calls another is a dozen calls in here. Every
//! other guest has a small stack (see `xtask`); for this one, the last of two settings wins.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-cdylib=-zstack-size=1048576");
}
