//! The macro that turns an implementation into a component, and what it calls.

/// Makes a component of a policy: `export!(MyPolicy: rollback)`. The kinds are `routing`, `decide`, `stages`,
/// `rollback`, `comparison` and `adapter`; a policy may be of several. Natively it does nothing.
#[macro_export]
macro_rules! export {
    ($policy:ty: $($kind:ident),+ $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            ::std::thread_local! {
                static POLICY: ::std::cell::OnceCell<$policy> = const { ::std::cell::OnceCell::new() };
            }

            impl $crate::bindings::policy::exports::cutover::policy::policy::Guest for Component {
                fn describe() -> $crate::bindings::policy::exports::cutover::policy::policy::Description {
                    $crate::__private::describe::<$policy>()
                }

                fn configure(settings: ::std::string::String) -> ::std::result::Result<(), ::std::vec::Vec<$crate::Problem>> {
                    let policy = $crate::__private::configure::<$policy>(&settings)?;
                    POLICY.with(|cell| cell.set(policy).map_err(|_| ::std::vec![$crate::problem("", "configured twice")]))
                }
            }

            // A policy that was not configured traps: the host configures every instance first.
            fn with<T>(ask: impl FnOnce(&$policy) -> T) -> T {
                POLICY.with(|cell| ask(cell.get().expect("configure comes first")))
            }

            $crate::bindings::policy::export!(Component with_types_in $crate::bindings::policy);
            $($crate::__export_kind!($kind);)+
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_kind {
    (routing) => {
        const _: () = {
            use $crate::bindings::routing::exports::cutover::policy::routing as wit;
            impl wit::Guest for Component {
                fn make_plan(situation: wit::Situation, memory: Vec<u8>) -> Result<wit::Answer, String> {
                    let (plan, memory) = $crate::__private::remember(&memory, |m| {
                        with(|p| $crate::Routing::make_plan(p, &situation, m))
                    })?;
                    Ok(wit::Answer { plan, memory })
                }
            }
    $crate::bindings::routing::export!(Component with_types_in $crate::bindings::routing);
        };
    };
    (decide) => {
        const _: () = {
            use $crate::bindings::decide::exports::cutover::policy::decide as wit;
            impl wit::Guest for Component {
                fn decide(frame: Vec<u8>) -> wit::Choice {
                    let frame = $crate::Frame::read(&frame).expect("the host packs whole frames");
                    with(|p| $crate::Decide::decide(p, frame))
                }
            }
    $crate::bindings::decide::export!(Component with_types_in $crate::bindings::decide);
        };
    };
    (stages) => {
        const _: () = {
            use $crate::bindings::stages::exports::cutover::policy::stages as wit;
            impl wit::Guest for Component {
                fn next(progress: wit::Progress, forced: bool, memory: Vec<u8>) -> Result<wit::Answer, String> {
                    let (mut next, memory, lost) = $crate::__private::remember_or_begin(&memory, |m| {
                        with(|p| $crate::Stages::next(p, &progress, forced, m))
                    })?;
                    next.findings.extend(lost);
                    Ok(wit::Answer { action: next.action, findings: next.findings, memory })
                }
            }
    $crate::bindings::stages::export!(Component with_types_in $crate::bindings::stages);
        };
    };
    (rollback) => {
        const _: () = {
            use $crate::bindings::rollback::exports::cutover::policy::rollback as wit;
            impl wit::Guest for Component {
                fn judge(check: wit::Check, memory: Vec<u8>) -> Result<wit::Answer, String> {
                    let (mut j, memory, lost) = $crate::__private::remember_or_begin(&memory, |m| {
                        with(|p| $crate::Rollback::judge(p, &check, m))
                    })?;
                    j.findings.extend(lost);
                    Ok(wit::Answer { verdict: j.verdict, findings: j.findings, evidence: j.evidence, memory })
                }
            }
    $crate::bindings::rollback::export!(Component with_types_in $crate::bindings::rollback);
        };
    };
    (comparison) => {
        const _: () = {
            use $crate::bindings::comparison::exports::cutover::policy::comparison as wit;
            impl wit::Guest for Component {
                fn compare(pairs: Vec<wit::Pair>) -> Vec<wit::Outcome> {
                    with(|p| $crate::Comparison::compare_all(p, &pairs))
                }
            }
    $crate::bindings::comparison::export!(Component with_types_in $crate::bindings::comparison);
        };
    };
    (adapter) => {
        const _: () = {
            use $crate::bindings::adapter::exports::cutover::policy::adapter as wit;
            impl wit::Guest for Component {
                fn adapt_call(call: wit::Call) -> Result<wit::AdaptedCall, String> {
                    with(|p| $crate::Adapter::adapt_call(p, &call))
                }
                fn adapt_reply(call: wit::Call, reply: wit::Reply) -> Result<wit::Reply, String> {
                    with(|p| $crate::Adapter::adapt_reply(p, &call, reply))
                }
            }
    $crate::bindings::adapter::export!(Component with_types_in $crate::bindings::adapter);
        };
    };
}

/// Called by what `export!` writes; not for authors.
#[doc(hidden)]
pub mod __private {
    use crate::{Finding, Memory, Policy, Problem, finding, problem};

    pub use crate::bindings::policy::exports::cutover::policy::policy::Description;
    pub use serde;

    /// Fills in `describe`.
    #[must_use]
    pub fn describe<P: Policy>() -> Description {
        let schema = schemars::schema_for!(P::Settings);
        Description {
            name: P::NAME.into(),
            version: P::VERSION.into(),
            summary: P::SUMMARY.into(),
            attributes: P::ATTRIBUTES.iter().map(|&a| a.into()).collect(),
            settings_schema: schema.as_value().to_string(),
        }
    }

    /// Reads settings and configures; a field of the wrong type is a problem with its path.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn configure<P: Policy>(settings: &str) -> Result<P, Vec<Problem>> {
        // `serde` would read an array as the fields of a struct by their positions, and `[]` as all of its defaults.
        if let Some(found) = no_object(settings) {
            return Err(vec![problem("", format!("settings are a JSON object, such as `{{}}`, and not {found}"))]);
        }
        let mut json = serde_json::Deserializer::from_str(settings);
        let settings = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            // The position within the one-line JSON says nothing that the path does not.
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            vec![problem(if path == "." { String::new() } else { path }, message)]
        })?;
        P::configure(settings)
    }

    /// What settings are that do not begin as an object does.
    fn no_object(settings: &str) -> Option<&'static str> {
        match settings.trim_start().bytes().next() {
            Some(b'{') => None,
            Some(b'[') => Some("an array"),
            Some(b'"') => Some("a text"),
            Some(b'-' | b'0'..=b'9') => Some("a number"),
            Some(b'n') => Some("null"),
            Some(b't' | b'f') => Some("true or false"),
            Some(_) => Some("what is no JSON"),
            None => Some("nothing"),
        }
    }

    /// Unpacks memory, asks, and packs it again.
    ///
    /// # Errors
    /// What the policy says, or that the memory is not this policy's.
    pub fn remember<M: Memory, T>(
        bytes: &[u8],
        ask: impl FnOnce(&mut M) -> Result<T, String>,
    ) -> Result<(T, Vec<u8>), String> {
        let mut memory = read(bytes)?;
        let answer = ask(&mut memory)?;
        Ok((answer, write(bytes.len(), &memory)?))
    }

    /// The same for kinds whose answers have findings: a memory that cannot be read is begun anew, and a finding says so.
    /// One that is refused for ever would keep V2 where it is, whatever it does.
    ///
    /// # Errors
    /// What the policy says.
    pub fn remember_or_begin<M: Memory, T>(
        bytes: &[u8],
        ask: impl FnOnce(&mut M) -> Result<T, String>,
    ) -> Result<(T, Vec<u8>, Option<Finding>), String> {
        let (mut memory, lost) = match read(bytes) {
            Ok(memory) => (memory, None),
            Err(why) => (M::default(), Some(lost(bytes.len(), &why))),
        };
        let answer = ask(&mut memory)?;
        Ok((answer, write(bytes.len(), &memory)?, lost))
    }

    fn lost(bytes: usize, why: &str) -> Finding {
        let note = format!("{why}; it begins anew, and what it knew is lost");
        finding("memory-lost", bytes as u64, 0, "bytes", note)
    }

    fn read<M: Memory>(bytes: &[u8]) -> Result<M, String> {
        if bytes.is_empty() {
            return Ok(M::default());
        }
        // Checked as a whole, text need not be checked string by string.
        let text = std::str::from_utf8(bytes).map_err(|e| format!("this memory is not mine: {e}"))?;
        serde_json::from_str(text).map_err(|e| format!("this memory is not mine: {e}"))
    }

    fn write<M: Memory>(before: usize, memory: &M) -> Result<Vec<u8>, String> {
        // It will be about as long as it was.
        let mut stored = Vec::with_capacity(before + before / 8 + 128);
        serde_json::to_writer(&mut stored, memory).map_err(|e| format!("memory cannot be stored: {e}"))?;
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::__private::{configure, remember, remember_or_begin};
    use crate::{Policy, Problem};

    struct Lenient(Settings);

    /// All have defaults.
    #[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        limit: u32,
        name: String,
    }

    impl Policy for Lenient {
        type Settings = Settings;
        const NAME: &'static str = "lenient";
        const VERSION: &'static str = "0.0.0";
        const SUMMARY: &'static str = "takes any settings";

        fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
            Ok(Self(settings))
        }
    }

    fn read(settings: &str) -> Result<Settings, (String, String)> {
        configure::<Lenient>(settings).map(|policy| policy.0).map_err(|problems| {
            let [one] = problems.try_into().expect("one problem");
            (one.path, one.message)
        })
    }

    #[test]
    fn memory_that_cannot_be_read_is_begun_anew_and_a_finding_says_so() {
        let ask = |memory: &mut u64| {
            *memory += 1;
            Ok::<_, String>(*memory)
        };
        assert_eq!(
            remember_or_begin(b"41", ask).map(|(n, stored, lost)| (n, stored, lost.is_some())),
            Ok((42, b"42".to_vec(), false))
        );
        for bytes in [&b"null"[..], b"{", b"\xff", b"-1"] {
            let (answer, stored, lost) = remember_or_begin(bytes, ask).unwrap();
            let lost = lost.unwrap();
            assert_eq!((answer, stored.as_slice(), lost.rule.as_str()), (1, &b"1"[..], "memory-lost"));
            assert!(lost.note.starts_with("this memory is not mine: ") && lost.note.ends_with("what it knew is lost"));
            assert!(remember(bytes, ask).is_err(), "a plan is not made anew in silence");
        }
    }

    #[test]
    fn settings_that_are_no_object_are_refused_with_a_sentence() {
        for (settings, found) in [
            ("[]", "an array"),
            (r#"[7, "seven"]"#, "an array"),
            ("\"{}\"", "a text"),
            ("-3", "a number"),
            ("null", "null"),
            ("true", "true or false"),
            ("", "nothing"),
            (" \n", "nothing"),
            ("limit = 7", "what is no JSON"),
        ] {
            let sentence = format!("settings are a JSON object, such as `{{}}`, and not {found}");
            assert_eq!(read(settings), Err((String::new(), sentence)), "{settings}");
        }
        assert_eq!(read(" {} "), Ok(Settings::default()));
        assert_eq!(read(r#"{ "limit": 7 }"#), Ok(Settings { limit: 7, name: String::new() }));
        assert_eq!(read(r#"{ "limit": -7 }"#).unwrap_err().0, "limit");
        assert!(read("{").unwrap_err().1.contains("EOF"));
    }
}
