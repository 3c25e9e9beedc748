//! Rego by regorus: compiled once, an input value for each request; by its interpreter, and by its virtual machine.

use regorus::{Engine, Rc, Value, languages::rego::compiler::Compiler, rvm::vm::RegoVM};

use cutover_model::request::{Attribute, Request};

use crate::{Ask, Shown, fixtures::SHARE, position};

/// The rule's path.
const V2: &str = "data.route.v2";

/// As the documentation begins.
pub(crate) fn interpreter(shown: Shown) -> Ask {
    let mut engine = engine();
    let attributes = shown.attributes();
    Box::new(move |request| {
        engine.set_input(input(request, &attributes));
        engine.eval_rule(V2.to_owned()).unwrap() == Value::from(true)
    })
}

/// As its own benches call the hot way: one machine, and an input for each execution.
pub(crate) fn machine(shown: Shown) -> Ask {
    let compiled = engine().compile_with_entrypoint(&Rc::from(V2)).unwrap();
    let program = Compiler::compile_from_policy(&compiled, &[V2]).unwrap();
    let mut machine = RegoVM::new();
    machine.load_program(program);
    let attributes = shown.attributes();
    Box::new(move |request| {
        machine.set_input(input(request, &attributes));
        machine.execute().unwrap() == Value::from(true)
    })
}

fn engine() -> Engine {
    let rule = format!(
        r#"package route
           default v2 := false
           v2 if input.x_beta in {{"beta", "internal"}}
           v2 if input.position < {SHARE}"#
    );
    let mut engine = Engine::new();
    engine.add_policy("route.rego".to_owned(), rule).unwrap();
    engine
}

fn input(request: &Request, attributes: &[(&str, Attribute)]) -> Value {
    let mut input = Value::new_object();
    let fields = input.as_object_mut().unwrap();
    for (name, attribute) in attributes {
        if let Some(value) = request.attribute(attribute) {
            fields.insert(Value::from(*name), Value::from(value));
        }
    }
    fields.insert(Value::from("position"), Value::from(u64::from(position(request))));
    input
}
