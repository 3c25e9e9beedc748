//! Rebuilds the store when its migrations change: they are compiled in.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
