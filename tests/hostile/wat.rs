//! Policies written as WebAssembly text: small enough to compile at once, and wrong in ways that Rust would not let pass.

/// The component of an interface `policy` whose name is `NAME` and whose `configure` does `CONFIGURE`.
const POLICY: &str = r#"
  (component $policy
    (core module $code
      (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096)
      (func (export "describe") (result i32) i32.const 0)
      ;; The answer at 64 is all zeros, which is `ok`.
      (func $configure (export "configure") (param i32 i32) (result i32) CONFIGURE i32.const 64)
      ;; A description: name and version point to the five bytes at 128, the rest is empty.
      (data (i32.const 0) "\80\00\00\00\05\00\00\00\80\00\00\00\05\00\00\00")
      (data (i32.const 128) "NAME"))
    (core instance $run (instantiate $code))
    (alias core export $run "memory" (core memory $memory))
    (alias core export $run "realloc" (core func $realloc))
    (type $d (record (field "name" string) (field "version" string) (field "summary" string)
      (field "attributes" (list string)) (field "settings-schema" string)))
    (export $description "description" (type $d))
    (type $p (record (field "path" string) (field "message" string)))
    (export $problem "problem" (type $p))
    (func $describe (result $description) (canon lift (core func $run "describe") (memory $memory)))
    (func $configure (param "settings" string) (result (result (error (list $problem))))
      (canon lift (core func $run "configure") (memory $memory) (realloc $realloc)))
    (export "describe" (func $describe))
    (export "configure" (func $configure)))
  (instance $as-policy (instantiate $policy))
  (export "cutover:policy/policy@0.1.0" (instance $as-policy))
"#;

/// A `judge` that takes and gives nothing.
const JUDGE_OF_ANOTHER_TYPE: &str = r#"
  (component $rollback
    (core module $code (func (export "judge")))
    (core instance $run (instantiate $code))
    (func $judge (canon lift (core func $run "judge")))
    (export "judge" (func $judge)))
  (instance $as-rollback (instantiate $rollback))
  (export "cutover:policy/rollback@0.1.0" (instance $as-rollback))
"#;

/// A `compare` to which all pairs are the same.
const COMPARE: &str = r#"
  (component $comparison
    (core module $code
      (memory (export "memory") 64)
      (global $next (mut i32) (i32.const 65536))
      (func (export "realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
        (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
        (global.get $next)
        (global.set $next (i32.add (global.get $next) (local.get $size))))
      ;; As many zeros from 1024 on as there are pairs: a zero is `same`.
      (func (export "compare") (param $pairs i32) (param $count i32) (result i32)
        (i32.store (i32.const 8) (i32.const 1024))
        (i32.store (i32.const 12) (local.get $count))
        (i32.const 8)))
    (core instance $run (instantiate $code))
    (alias core export $run "memory" (core memory $memory))
    (alias core export $run "realloc" (core func $realloc))
    (type $s (record (field "success" bool) (field "status" u16) (field "media-type" string) (field "body" (list u8))))
    (export $side "side" (type $s))
    (type $p (record (field "operation" string) (field "v1" $side) (field "v2" $side)))
    (export $pair "pair" (type $p))
    (type $d (record (field "path" string) (field "kind" string) (field "category" string) (field "v1" string)
      (field "v2" string)))
    (export $difference "difference" (type $d))
    (type $o (variant (case "same") (case "ignored" (list $difference)) (case "different" (list $difference))
      (case "incomparable" string)))
    (export $outcome "outcome" (type $o))
    (func $compare (param "pairs" (list $pair)) (result (list $outcome))
      (canon lift (core func $run "compare") (memory $memory) (realloc $realloc)))
    (export "compare" (func $compare)))
  (instance $as-comparison (instantiate $comparison))
  (export "cutover:policy/comparison@0.1.0" (instance $as-comparison))
"#;

fn component(name: &str, configure: &str, parts: &[&str]) -> Vec<u8> {
    assert_eq!(name.len(), 5, "the description says so");
    let text = format!("(component {POLICY} {})", parts.concat()).replace("NAME", name).replace("CONFIGURE", configure);
    wat::parse_str(text).unwrap_or_else(|e| panic!("{e}"))
}

/// A comparison policy of this name, of five letters.
pub(super) fn comparison(name: &str) -> Vec<u8> {
    component(name, "", &[COMPARE])
}

/// It exports `rollback`, but not the contract's.
pub(super) fn wrong_type() -> Vec<u8> {
    component("wrong", "", &[JUDGE_OF_ANOTHER_TYPE])
}

/// It exports `rollback` and cannot say who it is.
pub(super) fn nameless() -> Vec<u8> {
    wat::parse_str(format!("(component {JUDGE_OF_ANOTHER_TYPE})")).unwrap()
}

/// Its `configure` calls itself until the stack ends.
pub(super) fn recursive() -> Vec<u8> {
    component("again", "(call $configure (i32.const 0) (i32.const 0)) drop", &[JUDGE_OF_ANOTHER_TYPE])
}

/// Its name is not one.
pub(super) fn misnamed() -> Vec<u8> {
    component("A b/c", "", &[JUDGE_OF_ANOTHER_TYPE])
}

/// It wants a clock.
pub(super) fn importing() -> Vec<u8> {
    let import = r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64)))))"#;
    wat::parse_str(format!("(component {import})")).unwrap()
}
