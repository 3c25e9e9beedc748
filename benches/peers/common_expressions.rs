//! CEL: compiled once; the variables of each request added to a context, or resolved when the expression asks for them.

use std::sync::Arc;

use cel::{
    Context, Env, Program, Value,
    common::{
        types::{CelInt, CelString},
        value::CowVal,
    },
    context::VariableResolver,
};
use cutover_model::request::{Attribute, Request};

use crate::{Ask, Shown, fixtures::SHARE, position};

/// A request, read in place.
struct Resolver<'a> {
    request: &'a Request,
    attributes: &'a [(&'static str, Attribute)],
}

impl VariableResolver for Resolver<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if name == "position" {
            return Some(CowVal::owned(CelInt::from(i64::from(position(self.request)))));
        }
        let (_, attribute) = self.attributes.iter().find(|(known, _)| *known == name)?;
        // An attribute that is absent is empty, as in the filters of proxies.
        Some(CowVal::owned(CelString::from(self.request.attribute(attribute).unwrap_or_default())))
    }
}

/// As the documentation begins.
pub(crate) fn variables(shown: Shown) -> Ask {
    let (env, rule) = compiled();
    let attributes = shown.attributes();
    Box::new(move |request| {
        let mut context = Context::with_env(Arc::clone(&env));
        for (name, attribute) in &attributes {
            context.add_variable_from_value(*name, request.attribute(attribute).unwrap_or_default());
        }
        context.add_variable_from_value("position", i64::from(position(request)));
        rule.execute(&context).unwrap() == Value::Bool(true)
    })
}

/// As it recommends where there are many variables and few are read.
pub(crate) fn resolver(shown: Shown) -> Ask {
    let (env, rule) = compiled();
    let attributes = shown.attributes();
    Box::new(move |request| {
        let resolver = Resolver { request, attributes: &attributes };
        let mut context = Context::with_env(Arc::clone(&env));
        context.set_variable_resolver(&resolver);
        rule.execute(&context).unwrap() == Value::Bool(true)
    })
}

fn compiled() -> (Arc<Env>, Program) {
    let env = Env::stdlib();
    let rule = env.compile(&format!("x_beta in ['beta', 'internal'] || position < {SHARE}")).unwrap();
    (Arc::new(env), rule)
}
