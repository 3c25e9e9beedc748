//! Counts what a component needs, from its bytes and before anything is compiled: core instances, memories, tables.
//!
//! A component can nest others and instantiate each of them many times, so that a few bytes can ask for very much:
//! counts are multiplied as instantiations are, and saturate. Modules and components that come out of an instance are
//! not followed; wasmtime counts exactly once it has compiled, and holds that against the largest limit of any kind.
#![expect(clippy::wildcard_enum_match_arm, reason = "of dozens of sections and sorts, a handful needs room")]

use std::rc::Rc;

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef, Instance,
    MemoryType, Parser, Payload, TableType,
};

/// Bytes of a page of linear memory (core specification, 4.2.8).
const PAGE: u64 = 64 << 10;

/// What one instance of a component needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Needs {
    /// Core instances that one instance of the component makes.
    pub instances: u32,
    /// Linear memories, of all of them together.
    pub memories: u32,
    /// Tables, of all of them together.
    pub tables: u32,
    /// Bytes that all memories have to begin with.
    pub memory_bytes: u64,
    /// Elements that the largest table has to begin with.
    pub table_elements: u64,
}

/// A component or a core module that is being read, and what it can instantiate.
#[derive(Default)]
struct Frame {
    is_module: bool,
    needs: Needs,
    modules: Vec<Option<Needs>>,
    components: Vec<Option<Rc<Needs>>>,
}

/// Counts; `None` for what is not a whole component, of which the compiler says better what is wrong.
pub(super) fn count(bytes: &[u8]) -> Option<Needs> {
    let mut frames: Vec<Frame> = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            Payload::Version { encoding, .. } => {
                let is_module = encoding == wasmparser::Encoding::Module;
                frames.push(Frame { is_module, ..Frame::default() });
            }
            Payload::End(_) => {
                let done = frames.pop()?;
                let Some(parent) = frames.last_mut() else { return Some(done.needs) };
                if done.is_module {
                    parent.modules.push(Some(Needs { instances: 1, ..done.needs }));
                } else {
                    parent.components.push(Some(Rc::new(done.needs)));
                }
            }
            Payload::ComponentAliasSection(section) => {
                for item in section {
                    alias(&mut frames, &item.ok()?)?;
                }
            }
            other => frames.last_mut()?.read(other)?,
        }
    }
    None
}

impl Needs {
    /// With what wasmtime has counted, where that is more.
    pub(super) fn at_least(self, counted: Option<wasmtime::ResourcesRequired>) -> Self {
        let Some(counted) = counted else { return self };
        Self {
            memories: self.memories.max(counted.num_memories),
            tables: self.tables.max(counted.num_tables),
            memory_bytes: self.memory_bytes.max(counted.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE)),
            table_elements: self.table_elements.max(counted.max_initial_table_size.unwrap_or(0)),
            ..self
        }
    }

    fn add(&mut self, other: &Self) {
        self.instances = self.instances.saturating_add(other.instances);
        self.memories = self.memories.saturating_add(other.memories);
        self.tables = self.tables.saturating_add(other.tables);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.table_elements = self.table_elements.max(other.table_elements);
    }

    fn add_memory(&mut self, memory: MemoryType) {
        self.memories = self.memories.saturating_add(1);
        self.memory_bytes = self.memory_bytes.saturating_add(memory.initial.saturating_mul(PAGE));
    }

    fn add_table(&mut self, table: TableType) {
        self.tables = self.tables.saturating_add(1);
        self.table_elements = self.table_elements.max(table.initial);
    }
}

impl Frame {
    /// Takes in what is not about other frames; `None` if it cannot be read.
    fn read(&mut self, payload: Payload<'_>) -> Option<()> {
        match payload {
            Payload::MemorySection(section) => section.into_iter().try_for_each(|memory| {
                self.needs.add_memory(memory.ok()?);
                Some(())
            }),
            Payload::TableSection(section) => section.into_iter().try_for_each(|table| {
                self.needs.add_table(table.ok()?.ty);
                Some(())
            }),
            Payload::InstanceSection(section) => section.into_iter().try_for_each(|instance| {
                if let Instance::Instantiate { module_index, .. } = instance.ok()? {
                    let unknown = Needs { instances: 1, ..Needs::default() };
                    let module = self.modules.get(usize::try_from(module_index).ok()?)?.unwrap_or(unknown);
                    self.needs.add(&module);
                }
                Some(())
            }),
            Payload::ComponentInstanceSection(section) => section.into_iter().try_for_each(|instance| {
                if let ComponentInstance::Instantiate { component_index, .. } = instance.ok()?
                    && let Some(component) = self.components.get(usize::try_from(component_index).ok()?)?.clone()
                {
                    self.needs.add(&component);
                }
                Some(())
            }),
            Payload::ComponentImportSection(section) => section.into_iter().try_for_each(|import| {
                match import.ok()?.ty {
                    ComponentTypeRef::Module(_) => self.modules.push(None),
                    ComponentTypeRef::Component(_) => self.components.push(None),
                    _ => {}
                }
                Some(())
            }),
            Payload::ComponentExportSection(section) => section.into_iter().try_for_each(|export| {
                // What is exported gets another position, under which it can be instantiated as well.
                let export = export.ok()?;
                let at = usize::try_from(export.index).ok()?;
                match export.kind {
                    ComponentExternalKind::Module => self.modules.push(*self.modules.get(at)?),
                    ComponentExternalKind::Component => self.components.push(self.components.get(at)?.clone()),
                    _ => {}
                }
                Some(())
            }),
            _ => Some(()),
        }
    }
}

/// Modules and components of an outer component, or of an instance.
fn alias(frames: &mut [Frame], alias: &ComponentAlias<'_>) -> Option<()> {
    let (here, outer) = frames.split_last_mut()?;
    match alias {
        ComponentAlias::Outer { kind, count, index } => {
            let at = usize::try_from(*index).ok()?;
            let count = usize::try_from(*count).ok()?;
            let module = |frame: &Frame| frame.modules.get(at).copied();
            let component = |frame: &Frame| frame.components.get(at).cloned();
            let from = count.checked_sub(1).map(|up| outer.iter().rev().nth(up));
            match kind {
                ComponentOuterAliasKind::CoreModule => {
                    let found = from.map_or_else(|| module(here), |frame| module(frame?))?;
                    here.modules.push(found);
                }
                ComponentOuterAliasKind::Component => {
                    let found = from.map_or_else(|| component(here), |frame| component(frame?))?;
                    here.components.push(found);
                }
                _ => {}
            }
        }
        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => here.modules.push(None),
        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => here.components.push(None),
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(text: &str) -> Option<Needs> {
        count(&wat::parse_str(text).unwrap_or_else(|e| panic!("{e}")))
    }

    #[test]
    fn what_is_instantiated_counts_and_what_is_not_does_not() {
        let needs = needs(
            "(component
               (core module $used (memory 2) (memory 1) (table 5 funcref))
               (core module $unused (memory 9))
               (core instance (instantiate $used))
               (core instance (instantiate $used)))",
        );
        let wanted = Needs { instances: 2, memories: 4, tables: 2, memory_bytes: 6 * PAGE, table_elements: 5 };
        assert_eq!(needs, Some(wanted));
    }

    #[test]
    fn components_in_components_multiply() {
        let mut text = "(core module $m (table 1 funcref)) (core instance (instantiate $m))".to_owned();
        for _ in 0..40 {
            text = format!("(component $c {text}) (instance (instantiate $c)) (instance (instantiate $c))");
        }
        let needs = needs(&format!("(component {text})")).unwrap();
        assert_eq!((needs.instances, needs.tables, needs.memories), (u32::MAX, u32::MAX, 0));
    }

    #[test]
    fn modules_of_an_outer_component_count_where_they_are_instantiated() {
        let needs = needs(
            "(component
               (core module $m (memory 3))
               (component $inner
                 (alias outer 1 $m (core module $mine))
                 (core instance (instantiate $mine)))
               (instance (instantiate $inner)))",
        );
        assert_eq!(needs, Some(Needs { instances: 1, memories: 1, memory_bytes: 3 * PAGE, ..Needs::default() }));
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_compiler() {
        assert_eq!(count(b"text"), None);
        assert_eq!(count(&[]), None);
        assert_eq!(needs("(module)"), Some(Needs::default()), "a core module has no instance");
        let text = "(component (core module $m (memory 1)) (core instance (instantiate $m)))";
        let whole = wat::parse_str(text).unwrap();
        let needs = count(&whole).unwrap();
        for end in 0..whole.len() {
            let cut = count(&whole[..end]).unwrap_or_default();
            assert!(cut.memories <= needs.memories && cut.instances <= needs.instances, "{end}");
        }
    }
}
