//! Rhai in this process, without a sandbox: parsed once, a scope for each request.

use rhai::{Engine, INT, Scope};

use crate::{Ask, Shown, fixtures::SHARE, position};

pub(crate) fn rhai(shown: Shown) -> Ask {
    let engine = Engine::new();
    let rule = format!(r#"x_beta == "beta" || x_beta == "internal" || position < {SHARE}"#);
    let rule = engine.compile_expression(rule).unwrap();
    let attributes = shown.attributes();
    Box::new(move |request| {
        let mut scope = Scope::new();
        for (name, attribute) in &attributes {
            match request.attribute(attribute) {
                Some(value) => scope.push(*name, rhai::ImmutableString::from(value)),
                None => scope.push(*name, ()),
            };
        }
        scope.push("position", INT::from(position(request)));
        engine.eval_ast_with_scope(&mut scope, &rule).unwrap()
    })
}
