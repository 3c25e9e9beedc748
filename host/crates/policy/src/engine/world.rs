//! Where a component exports the contract, found once per component, and the typed functions of one instance.
//!
//! Looking a function up by name costs more than calling it; an instance gets its functions by position instead. The
//! types are checked for every instance, because only there wasmtime checks them.

use wasmtime::{Error, component::InstancePre};

use super::{
    Kind, PolicyError, bindings as b,
    contract::{self, Found},
    guest::{self, Guest, State},
};

/// The positions of the contract's interfaces in a component.
#[derive(Clone)]
pub(super) struct Places {
    policy: Option<b::policy::PolicyHostIndices>,
    routing: Option<b::routing::RoutingHostIndices>,
    decide: Option<b::decide::DecideHostIndices>,
    stages: Option<b::stages::StagesHostIndices>,
    rollback: Option<b::rollback::RollbackHostIndices>,
    comparison: Option<b::comparison::ComparisonHostIndices>,
    adapter: Option<b::adapter::AdapterHostIndices>,
}

/// The functions of one kind of one instance.
pub(super) enum World {
    Routing { plan: b::routing::RoutingHost, decide: Option<b::decide::DecideHost> },
    Stages(b::stages::StagesHost),
    Rollback(b::rollback::RollbackHost),
    Comparison(b::comparison::ComparisonHost),
    Adapter(b::adapter::AdapterHost),
}

impl Places {
    /// Finds the interfaces of the contract among the exports.
    ///
    /// # Errors
    /// An interface has the right name and lacks a function.
    pub(super) fn find(pre: &InstancePre<State>, exports: &[String]) -> Result<Self, PolicyError> {
        fn place<T>(
            exports: &[String],
            interface: &str,
            find: impl FnOnce() -> Result<T, Error>,
        ) -> Result<Option<T>, PolicyError> {
            match contract::find(exports, interface) {
                Found::Known(_) => find().map(Some).map_err(|error| wrong_type(interface, &error)),
                Found::Unknown(_) | Found::Nothing => Ok(None),
            }
        }
        Ok(Self {
            policy: place(exports, "policy", || b::policy::PolicyHostIndices::new(pre))?,
            routing: place(exports, "routing", || b::routing::RoutingHostIndices::new(pre))?,
            decide: place(exports, "decide", || b::decide::DecideHostIndices::new(pre))?,
            stages: place(exports, "stages", || b::stages::StagesHostIndices::new(pre))?,
            rollback: place(exports, "rollback", || b::rollback::RollbackHostIndices::new(pre))?,
            comparison: place(exports, "comparison", || b::comparison::ComparisonHostIndices::new(pre))?,
            adapter: place(exports, "adapter", || b::adapter::AdapterHostIndices::new(pre))?,
        })
    }

    /// The kinds that are offered, in the order of the data flow.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        let offers = |kind: &Kind| match kind {
            Kind::Routing => self.routing.is_some(),
            Kind::Stages => self.stages.is_some(),
            Kind::Rollback => self.rollback.is_some(),
            Kind::Comparison => self.comparison.is_some(),
            Kind::Adapter => self.adapter.is_some(),
        };
        Kind::ALL.into_iter().filter(offers).collect()
    }

    /// Whether it can be asked per request.
    pub(super) const fn decides(&self) -> bool {
        self.decide.is_some()
    }

    /// The functions that every policy has.
    pub(super) fn policy(&self, guest: &mut Guest) -> Result<b::policy::PolicyHost, PolicyError> {
        let missing = || PolicyError::MissingInterface { interface: contract::name("policy") };
        let place = self.policy.as_ref().ok_or_else(missing)?;
        place.load(&mut guest.store, &guest.instance).map_err(|error| wrong_type("policy", &error))
    }

    /// The functions of one kind, their types checked.
    pub(super) fn load(&self, kind: Kind, guest: &mut Guest) -> Result<World, PolicyError> {
        let Guest { store, instance } = guest;
        macro_rules! load {
            ($place:expr, $interface:literal) => {
                match &$place {
                    Some(place) => place.load(&mut *store, instance).map_err(|e| wrong_type($interface, &e))?,
                    None => return Err(PolicyError::MissingInterface { interface: contract::name($interface) }),
                }
            };
        }
        Ok(match kind {
            Kind::Routing => World::Routing {
                plan: load!(self.routing, "routing"),
                decide: if self.decides() { Some(load!(self.decide, "decide")) } else { None },
            },
            Kind::Stages => World::Stages(load!(self.stages, "stages")),
            Kind::Rollback => World::Rollback(load!(self.rollback, "rollback")),
            Kind::Comparison => World::Comparison(load!(self.comparison, "comparison")),
            Kind::Adapter => World::Adapter(load!(self.adapter, "adapter")),
        })
    }
}

fn wrong_type(interface: &str, error: &Error) -> PolicyError {
    PolicyError::WrongType { interface: contract::name(interface), message: guest::said(error) }
}
