//! Rebuilds the host when the store's migrations change: they are compiled in.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
