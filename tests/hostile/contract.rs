//! Policies written function by function as WebAssembly text, so that each export of the contract can do what no
//! compiler would let it do. Signatures come from the contract itself.
//!
//! What a test does not write is sane: the policy says that it is `alpha`, takes any settings, and gives the plainest
//! answer of its kind.

use cutover_model::port::Kind;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Function, Resolve, WorldId, WorldItem, WorldKey, abi::AbiVariant, abi::WasmType};

use crate::harness::root;

/// A function that the host may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Export {
    Describe,
    Configure,
    MakePlan,
    Decide,
    Next,
    Judge,
    Compare,
    AdaptCall,
    AdaptReply,
}

/// A policy to write: what its parts do, where that is not sane.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) world: &'static str,
    /// The export that misbehaves, its body, and that of its clean-up.
    pub(crate) export: Export,
    pub(crate) body: Option<String>,
    pub(crate) clean_up: String,
    pub(crate) realloc: Option<String>,
    /// Further fields of the module: functions, globals, a `start`, data.
    pub(crate) fields: String,
    /// Pages of memory to begin with.
    pub(crate) pages: u32,
}

impl Export {
    pub(crate) const ALL: [Self; 9] = [
        Self::Describe,
        Self::Configure,
        Self::MakePlan,
        Self::Decide,
        Self::Next,
        Self::Judge,
        Self::Compare,
        Self::AdaptCall,
        Self::AdaptReply,
    ];

    /// As the contract calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Configure => "configure",
            Self::MakePlan => "make-plan",
            Self::Decide => "decide",
            Self::Next => "next",
            Self::Judge => "judge",
            Self::Compare => "compare",
            Self::AdaptCall => "adapt-call",
            Self::AdaptReply => "adapt-reply",
        }
    }

    /// The kind of policy that has it; one of them, if all have.
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::MakePlan | Self::Decide => Kind::Routing,
            Self::Next => Kind::Stages,
            Self::Describe | Self::Configure | Self::Judge => Kind::Rollback,
            Self::Compare => Kind::Comparison,
            Self::AdaptCall | Self::AdaptReply => Kind::Adapter,
        }
    }

    const fn world(self) -> &'static str {
        match self {
            Self::MakePlan => "routing-policy",
            Self::Decide => "deciding-policy",
            Self::Next => "stages-policy",
            Self::Describe | Self::Configure | Self::Judge => "rollback-policy",
            Self::Compare => "comparison-policy",
            Self::AdaptCall | Self::AdaptReply => "adapter-policy",
        }
    }

    /// The plainest answer, at the addresses of [`DATA`]. 64 is an `ok` of zeros.
    const fn sane(self) -> &'static str {
        match self {
            Self::Describe => "i32.const 0",
            Self::Configure | Self::Next | Self::Judge | Self::AdaptReply => "i32.const 64",
            Self::MakePlan => "i32.const 320",
            Self::Decide => "i32.const 0",
            // As many zeros from 1024 on as there are pairs: a zero is `same`.
            Self::Compare => {
                "(i32.store (i32.const 512) (i32.const 1024)) (i32.store (i32.const 516) (local.get 1)) i32.const 512"
            }
            Self::AdaptCall => "i32.const 400",
        }
    }
}

/// A description at 0, texts from 256, a plan at 320, an adapted call at 400; the heap begins at 8192.
const DATA: &str = r#"
  (data (i32.const 0) "\00\01\00\00\05\00\00\00\00\01\00\00\05\00\00\00")
  (data (i32.const 256) "alpha") (data (i32.const 272) "session") (data (i32.const 288) "{}")
  (data (i32.const 336) "\10\01\00\00\07\00\00\00")
  (data (i32.const 404) "\00\01\00\00\05\00\00\00\20\01\00\00\02\00\00\00")
"#;

/// Hands out memory from 8192 on and takes none back.
const REALLOC: &str = r"(local $at i32)
  (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
  (global.set $heap (i32.add (local.get $at) (local.get 3)))
  (block $fits
    (br_if $fits (i32.le_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))))
    (br_if $fits (i32.ne (i32.const -1)
      (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1)))))
    unreachable)
  local.get $at";

impl Guest {
    /// A sane policy that has an export.
    pub(crate) fn with(export: Export) -> Self {
        Self {
            world: export.world(),
            export,
            body: None,
            clean_up: String::new(),
            realloc: None,
            fields: String::new(),
            pages: 1,
        }
    }

    /// With another body for the export.
    pub(crate) fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// With further fields.
    pub(crate) fn fields(mut self, fields: impl Into<String>) -> Self {
        self.fields = fields.into();
        self
    }

    /// The module as text, without its last parenthesis.
    fn text(&self, resolve: &Resolve, world: WorldId) -> String {
        let realloc = self.realloc.as_deref().unwrap_or(REALLOC);
        let mut text = format!(
            "(module (memory (export \"memory\") {}) (global $heap (mut i32) (i32.const 8192)) {DATA} {}\n\
             (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {realloc})\n",
            self.pages, self.fields
        );
        for (name, function, signature) in exports(resolve, world) {
            let export = Export::ALL.into_iter().find(|e| e.name() == function).unwrap();
            let mine = export == self.export;
            let body = self.body.as_deref().filter(|_| mine).unwrap_or(export.sane());
            text += &format!("(func (export \"{name}\") {signature} {body})\n");
            if mine && export != Export::Decide {
                text += &format!("(func (export \"cabi_post_{name}\") (param i32) {})\n", self.clean_up);
            }
        }
        text
    }

    /// A module with nothing but the functions that a policy with this export has beside those that all have.
    pub(crate) fn shape(export: Export) -> String {
        let (resolve, world) = contract(export.world());
        let functions = exports(&resolve, world).into_iter().filter(|(name, ..)| !is_of_all(name));
        let functions = functions.map(|(name, _, ty)| format!("(func (export \"{name}\") {ty} unreachable)"));
        format!("(module {})", functions.collect::<String>())
    }

    /// The component of a module of that shape, with what it lacks of a policy. It must have one memory.
    pub(crate) fn around(&self, module: &str) -> Vec<u8> {
        let (resolve, world) = contract(self.world);
        let module = module.trim_end().strip_suffix(')').unwrap();
        let lines = module.lines().map(|line| {
            let is_memory = line.trim_start().starts_with("(memory ");
            if is_memory { "(memory (;0;) 1 100)" } else { line }
        });
        let mut text: String = lines.flat_map(|line| [line, "\n"]).collect();
        text += &format!("(export \"memory\" (memory 0)) (global $heap (mut i32) (i32.const 8192)) {DATA}\n");
        text += &format!("(func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {REALLOC})\n");
        for (name, function, ty) in exports(&resolve, world).into_iter().filter(|(name, ..)| is_of_all(name)) {
            let export = Export::ALL.into_iter().find(|e| e.name() == function).unwrap();
            text += &format!("(func (export \"{name}\") {ty} {})\n", export.sane());
        }
        text.push(')');
        let module = wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        encode(module, &resolve, world)
    }

    /// The component.
    pub(crate) fn component(&self) -> Vec<u8> {
        let (resolve, world) = contract(self.world);
        let text = self.text(&resolve, world) + ")";
        let module = wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        encode(module, &resolve, world)
    }
}

/// The contract, and one of its worlds.
pub(crate) fn contract(world: &str) -> (Resolve, WorldId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    (resolve, world)
}

/// A core module becomes a component of a world.
pub(crate) fn encode(mut module: Vec<u8>, resolve: &Resolve, world: WorldId) -> Vec<u8> {
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// Whether a function is of the interface that every policy has.
fn is_of_all(name: &str) -> bool {
    name.starts_with("cutover:policy/policy@")
}

/// The functions that a module for a world exports: the whole name, the short one, the types.
pub(crate) fn exports(resolve: &Resolve, world: WorldId) -> Vec<(String, String, String)> {
    let interfaces = resolve.worlds[world].exports.iter().filter_map(|(key, item)| match (key, item) {
        (WorldKey::Interface(_), WorldItem::Interface { id, .. }) => Some(*id),
        _ => None,
    });
    interfaces
        .flat_map(|id| {
            let interface = resolve.id_of(id).unwrap();
            let functions = resolve.interfaces[id].functions.values();
            functions.map(move |f| (format!("{interface}#{}", f.name), f.name.clone(), signature(resolve, f)))
        })
        .collect()
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let signature = resolve.wasm_signature(AbiVariant::GuestExport, function);
    let types = |of: &str, types: &[WasmType]| {
        let types: Vec<_> = types.iter().map(|ty| text_of(*ty)).collect();
        if types.is_empty() { String::new() } else { format!("({of} {})", types.join(" ")) }
    };
    format!("{} {}", types("param", &signature.params), types("result", &signature.results))
}

const fn text_of(ty: WasmType) -> &'static str {
    match ty {
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
    }
}
