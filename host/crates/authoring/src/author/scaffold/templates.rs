//! The files of `templates/policy`, compiled in, by kind and language.

use super::Language;
use cutover_model::port::Kind;

/// Paths within a bundle, and texts with placeholders.
type Files = Vec<(&'static str, &'static str)>;

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../templates/policy/", $path))
    };
}

macro_rules! sdk {
    ($path:literal) => {
        include_str!(concat!("../../../../../../guests/javascript/", $path))
    };
}

/// What is written in all languages, and in each of them.
struct Sources {
    policy: &'static str,
    cases: &'static str,
    rust: &'static str,
    rhai: &'static str,
    /// The module and its unit tests.
    javascript: Option<(&'static str, &'static str)>,
}

/// The files of a bundle; none if there is no template.
pub(super) fn of(kind: Kind, language: Language) -> Option<Files> {
    let sources = sources(kind);
    let mut files = vec![("policy.toml", sources.policy), ("cases/policy.toml", sources.cases)];
    files.extend(match language {
        Language::Rust => vec![
            ("Cargo.toml", template!("rust/Cargo.toml")),
            ("src/lib.rs", sources.rust),
            ("README.md", template!("rust/README.md")),
            (".gitignore", template!("rust/gitignore")),
        ],
        Language::Rhai => vec![("policy.rhai", sources.rhai), ("README.md", template!("rhai/README.md"))],
        Language::JavaScript => {
            let (policy, test) = sources.javascript?;
            vec![
                ("package.json", template!("javascript/package.json")),
                ("package-lock.json", template!("javascript/package-lock.json")),
                ("policy.js", policy),
                ("policy.test.js", test),
                ("sdk/index.js", sdk!("sdk/index.js")),
                ("sdk/latency.js", sdk!("sdk/latency.js")),
                ("sdk/settings.js", sdk!("sdk/settings.js")),
                ("sdk/text.js", sdk!("sdk/text.js")),
                ("README.md", template!("javascript/README.md")),
                (".gitignore", template!("javascript/gitignore")),
            ]
        }
    });
    Some(files)
}

/// What a `policy.toml` says of its component.
pub(super) const fn source(language: Language) -> &'static str {
    match language {
        Language::Rust | Language::JavaScript => "component = \"policy.wasm\"",
        Language::Rhai => "guest = \"rhai\"\nscript = \"policy.rhai\"",
    }
}

/// What a crate of this kind needs beside the SDK.
pub(super) const fn dependencies(kind: Kind) -> &'static str {
    match kind {
        Kind::Comparison | Kind::Adapter => "serde_json = \"1\"\n",
        Kind::Routing | Kind::Stages | Kind::Rollback => "",
    }
}

fn sources(kind: Kind) -> Sources {
    match kind {
        Kind::Rollback => Sources {
            policy: template!("rollback/policy.toml"),
            cases: template!("rollback/cases.toml"),
            rust: template!("rollback/lib.rs"),
            rhai: template!("rollback/policy.rhai"),
            javascript: Some((template!("rollback/policy.js"), template!("rollback/policy.test.js"))),
        },
        Kind::Stages => Sources {
            policy: template!("stages/policy.toml"),
            cases: template!("stages/cases.toml"),
            rust: template!("stages/lib.rs"),
            rhai: template!("stages/policy.rhai"),
            javascript: Some((template!("stages/policy.js"), template!("stages/policy.test.js"))),
        },
        Kind::Routing => Sources {
            policy: template!("routing/policy.toml"),
            cases: template!("routing/cases.toml"),
            rust: template!("routing/lib.rs"),
            rhai: template!("routing/policy.rhai"),
            javascript: None,
        },
        Kind::Comparison => Sources {
            policy: template!("comparison/policy.toml"),
            cases: template!("comparison/cases.toml"),
            rust: template!("comparison/lib.rs"),
            rhai: template!("comparison/policy.rhai"),
            javascript: Some((template!("comparison/policy.js"), template!("comparison/policy.test.js"))),
        },
        Kind::Adapter => Sources {
            policy: template!("adapter/policy.toml"),
            cases: template!("adapter/cases.toml"),
            rust: template!("adapter/lib.rs"),
            rhai: template!("adapter/policy.rhai"),
            javascript: None,
        },
    }
}
