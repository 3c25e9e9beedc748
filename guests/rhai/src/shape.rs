//! Reads what a script answers: maps with known fields. Every error names the place, what is there, and what fits.

use rhai::{Dynamic, INT, Map};

/// A map that is being read.
pub(crate) struct Shape {
    path: String,
    map: Map,
    known: Vec<&'static str>,
}

/// What a field can be.
pub(crate) trait Field: Sized {
    /// For people: `a whole number`.
    const EXPECTED: &'static str;

    /// `None` if it is something else.
    fn read(value: Dynamic) -> Option<Self>;
}

impl Shape {
    /// `what` says what would fit, for the error.
    pub(crate) fn of(path: impl Into<String>, value: Dynamic, what: &str) -> Result<Self, String> {
        let path = path.into();
        let found = type_name(&value);
        let map = value.try_cast::<Map>().ok_or_else(|| format!("`{path}` is {found}, and has to be {what}"))?;
        Ok(Self { path, map, known: Vec::new() })
    }

    /// A field that may be left out.
    pub(crate) fn optional<T: Field>(&mut self, name: &'static str) -> Result<Option<T>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => read(&self.path_of(name), value).map(Some),
        }
    }

    /// A field that may not.
    pub(crate) fn required<T: Field>(&mut self, name: &'static str) -> Result<T, String> {
        let path = self.path_of(name);
        self.optional(name)?.ok_or_else(|| format!("`{path}` is missing, and has to be {}", T::EXPECTED))
    }

    /// A field of any type; `()` counts as left out.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Dynamic> {
        self.known.push(name);
        self.map.remove(name).map(Dynamic::flatten).filter(|value| !value.is_unit())
    }

    /// A list, or one element of it; empty if it is left out.
    pub(crate) fn list<T>(
        &mut self,
        name: &'static str,
        element: impl Fn(&str, Dynamic) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let path = self.path_of(name);
        self.take(name).map_or_else(|| Ok(Vec::new()), |value| list(&path, value, element))
    }

    /// Where a field is.
    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Nothing else may be in it.
    pub(crate) fn end(self) -> Result<(), String> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(unknown) => {
                let known: Vec<_> = self.known.iter().map(|name| format!("`{name}`")).collect();
                Err(format!("`{}` has an unknown field `{unknown}`; it may have {}", self.path, known.join(", ")))
            }
        }
    }
}

/// Reads a value that has to be of one type.
pub(crate) fn read<T: Field>(path: &str, value: Dynamic) -> Result<T, String> {
    let found = type_name(&value);
    T::read(value).ok_or_else(|| format!("`{path}` is {found}, and has to be {}", T::EXPECTED))
}

/// A list, or one element of it.
pub(crate) fn list<T>(
    path: &str,
    value: Dynamic,
    element: impl Fn(&str, Dynamic) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    if !value.is_array() {
        return element(path, value).map(|one| vec![one]);
    }
    let elements = value.into_array().unwrap_or_default();
    elements.into_iter().enumerate().map(|(i, value)| element(&format!("{path}[{i}]"), value.flatten())).collect()
}

/// One of a few words.
pub(crate) fn word<T: Copy>(path: &str, word: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(name, _)| *name == word).map(|&(_, value)| value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("`{path}` is \"{}\", and has to be one of {}", excerpt(word), words.join(", "))
    })
}

/// What a value is, for people, with the value where it is short.
pub(crate) fn type_name(value: &Dynamic) -> String {
    if value.is_unit() {
        "nothing, `()`".into()
    } else if let Ok(text) = value.as_immutable_string_ref() {
        format!("the text \"{}\"", excerpt(&text))
    } else if value.is_int() || value.is_float() || value.is_bool() {
        format!("{value}")
    } else if value.is_array() {
        "an array".into()
    } else if value.is_map() {
        "a map".into()
    } else {
        format!("of the type {}", value.type_name().rsplit("::").next().unwrap_or_default())
    }
}

fn excerpt(text: &str) -> String {
    cutover_policy::text::excerpt(text, 40)
}

impl Field for INT {
    const EXPECTED: &'static str = "a whole number";

    fn read(value: Dynamic) -> Option<Self> {
        value.as_int().ok()
    }
}

impl Field for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn read(value: Dynamic) -> Option<Self> {
        value.as_int().ok()?.try_into().ok()
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "`true` or `false`";

    fn read(value: Dynamic) -> Option<Self> {
        value.as_bool().ok()
    }
}

impl Field for String {
    const EXPECTED: &'static str = "a text";

    fn read(value: Dynamic) -> Option<Self> {
        value.into_string().ok()
    }
}
