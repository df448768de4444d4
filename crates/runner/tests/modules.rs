//! The walls within crates, read from the sources: modules import in one direction, a type's name is used once, files and
//! functions are short.
//! Tests are left out. ARCHITECTURE.md says why.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// Names that several public types may have.
const SHARED_NAMES: [(&str, &str); 2] = [("Error", "one per crate"), ("Result", "one per crate")];

/// The longest file, in lines, with its own tests.
const LONGEST: usize = 600;

/// A source file.
#[derive(Debug)]
struct Module {
    file: PathBuf,
    lines: usize,
    /// Identifiers, `::`, other punctuation and brackets, in order, without comments and tests.
    tokens: Vec<String>,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    uses: Vec<Use>,
}

/// One name of a `use`.
#[derive(Debug, Clone)]
struct Use {
    path: Vec<String>,
    /// `*` for all.
    name: String,
    is_public: bool,
}

/// All modules of a crate; the first is its root.
struct Crate {
    name: String,
    modules: Vec<Module>,
}

fn crates() -> Vec<Crate> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("crates/ can be listed")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter().map(|name| Crate::read(&folder.join(&name), name)).collect()
}

impl Crate {
    fn read(folder: &Path, name: String) -> Self {
        let root = ["lib.rs", "main.rs"].map(|file| folder.join("src").join(file));
        let root = root.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} has no root"));
        let mut this = Self { name, modules: vec![] };
        this.add(root, None);
        this
    }

    fn add(&mut self, file: PathBuf, parent: Option<usize>) -> usize {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let stream: TokenStream = text.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut tokens = vec![];
        flatten(stream, false, &mut tokens);
        let folder =
            match file.file_name().is_some_and(|name| ["lib.rs", "main.rs", "mod.rs"].iter().any(|f| name == *f)) {
                true => file.parent().expect("a folder").to_path_buf(),
                false => file.with_extension(""),
            };
        let names: Vec<String> =
            tokens.windows(3).filter(|t| t[0] == "mod" && t[2] == ";").map(|t| t[1].clone()).collect();
        let index = self.modules.len();
        let (lines, uses) = (text.lines().count(), uses(&tokens));
        self.modules.push(Module { file, lines, tokens, parent, children: BTreeMap::new(), uses });
        for name in names {
            let nested = folder.join(&name).join("mod.rs");
            let file = if nested.exists() { nested } else { folder.join(format!("{name}.rs")) };
            let child = self.add(file, Some(index));
            self.modules[index].children.insert(name, child);
        }
        index
    }

    /// The module that a path from another leads to, and the item there; nothing for a path out of the crate.
    fn resolve(&self, from: usize, path: &[String]) -> Option<(usize, Option<String>)> {
        let module = &self.modules[from];
        match path[0].as_str() {
            "crate" => self.walk(0, &path[1..]),
            "self" => self.walk(from, &path[1..]),
            "super" => self.walk(module.parent?, &path[1..]),
            first if module.children.contains_key(first) || module.uses.iter().any(|u| u.name == first) => {
                self.walk(from, path)
            }
            _ => None,
        }
    }

    fn walk(&self, from: usize, path: &[String]) -> Option<(usize, Option<String>)> {
        let Some((first, rest)) = path.split_first() else { return Some((from, None)) };
        let module = &self.modules[from];
        if first == "super" {
            return self.walk(module.parent?, rest);
        }
        if let Some(&child) = module.children.get(first) {
            return self.walk(child, rest);
        }
        if let Some(import) = module.uses.iter().find(|import| import.name == *first) {
            let is_elsewhere = import.path[0] == *first; // in another crate of that name
            return if is_elsewhere { None } else { self.resolve(from, &[&import.path, rest].concat()) };
        }
        let globs = module.uses.iter().filter(|import| import.name == "*" && import.is_public);
        let reexported = globs.filter_map(|import| self.resolve(from, &import.path)).find(|(module, _)| {
            self.modules[*module].tokens.windows(2).any(|t| is_definition(&t[0]) && t[1] == *first)
        });
        Some((reexported.map_or(from, |(module, _)| module), Some(first.clone())))
    }

    /// Which module uses which others, and by what names. Imports alone of a root or for the outside are none.
    fn edges(&self) -> BTreeMap<usize, BTreeMap<usize, BTreeSet<String>>> {
        let mut edges: BTreeMap<usize, BTreeMap<usize, BTreeSet<String>>> = BTreeMap::new();
        for (from, module) in self.modules.iter().enumerate() {
            let imports =
                module.uses.iter().filter(|import| !import.is_public).map(|import| (&import.path, &import.name));
            let targets = imports.filter_map(|(path, name)| {
                let (to, item) = self.resolve(from, path)?;
                (item.is_some() || name == "*").then(|| (to, item.unwrap_or("*".into())))
            });
            let paths = paths(&module.tokens);
            let inline = paths.iter().filter_map(|path| {
                let (to, item) = self.resolve(from, path)?;
                Some((to, item.unwrap_or_else(|| path.join("::"))))
            });
            let is_alias = |to: usize, item: &str| to == 0 && item == "Result"; // `Error` by another name
            for (to, item) in targets.chain(inline).filter(|(to, item)| *to != from && !is_alias(*to, item)) {
                edges.entry(from).or_default().entry(to).or_default().insert(item);
            }
        }
        edges
    }

    /// A shortest circle through each module that is in one, without repetitions.
    fn circles(&self) -> Vec<String> {
        let edges = self.edges();
        let next = |module: usize| edges.get(&module).into_iter().flat_map(BTreeMap::keys).copied();
        let mut circles = BTreeMap::new();
        for start in 0..self.modules.len() {
            let (mut previous, mut queue) = (BTreeMap::new(), VecDeque::from([start]));
            while let Some(module) = queue.pop_front() {
                for to in next(module) {
                    if to == start {
                        let mut circle = vec![module];
                        while circle[circle.len() - 1] != start {
                            circle.push(previous[&circle[circle.len() - 1]]);
                        }
                        circle.reverse();
                        let members: BTreeSet<usize> = circle.iter().copied().collect();
                        circles.entry(members).or_insert(circle);
                        queue.clear();
                        break;
                    }
                    if let std::collections::btree_map::Entry::Vacant(entry) = previous.entry(to) {
                        entry.insert(module);
                        queue.push_back(to);
                    }
                }
            }
        }
        let step = |from: usize, to: usize| {
            let items = edges[&from][&to].iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            format!("{} → {} ({items})", self.name_of(from), self.name_of(to))
        };
        let circle = |circle: Vec<usize>| {
            let steps = (0..circle.len()).map(|i| step(circle[i], circle[(i + 1) % circle.len()]));
            steps.collect::<Vec<_>>().join(", ")
        };
        circles.into_values().map(circle).collect()
    }

    /// A file's path below its crate's sources.
    fn name_of(&self, module: usize) -> String {
        let root = self.modules[0].file.parent().expect("src/");
        self.modules[module].file.strip_prefix(root).expect("below src/").display().to_string()
    }
}

/// Tokens without what is for tests alone; `super` within an inline module is the file itself.
fn flatten(stream: TokenStream, is_inline: bool, into: &mut Vec<String>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut i = 0;
    while i < trees.len() {
        if let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = &trees[i..]
            && hash.as_char() == '#'
            && attribute.delimiter() == Delimiter::Bracket
        {
            i += 2;
            if attribute.stream().to_string().replace(' ', "") == "cfg(test)" {
                let is_end = |tree: &TokenTree| match tree {
                    TokenTree::Punct(punct) => punct.as_char() == ';',
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    _ => false,
                };
                i += trees[i..].iter().position(is_end).map_or(trees.len(), |end| end + 1);
            }
            continue;
        }
        match &trees[i] {
            TokenTree::Ident(name) if is_inline && name == "super" => into.push("self".into()),
            TokenTree::Ident(name) => into.push(name.to_string()),
            TokenTree::Literal(_) => into.push("literal".into()),
            TokenTree::Punct(punct) if punct.as_char() == ':' && into.last().is_some_and(|last| last == ":") => {
                into.pop();
                into.push("::".into());
            }
            TokenTree::Punct(punct) => into.push(punct.as_char().into()),
            TokenTree::Group(group) => {
                let [open, close] = match group.delimiter() {
                    Delimiter::Brace => ["{", "}"],
                    Delimiter::Parenthesis => ["(", ")"],
                    Delimiter::Bracket => ["[", "]"],
                    Delimiter::None => ["", ""],
                };
                let opens_module = open == "{" && into.len() > 1 && into[into.len() - 2] == "mod";
                into.push(open.into());
                flatten(group.stream(), is_inline || opens_module, into);
                into.push(close.into());
            }
        }
        i += 1;
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn is_definition(token: &str) -> bool {
    ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "mod"].contains(&token)
}

/// The names of all `use` declarations.
fn uses(tokens: &[String]) -> Vec<Use> {
    let mut uses = vec![];
    for (start, _) in tokens.iter().enumerate().filter(|(_, token)| *token == "use") {
        let end = start + tokens[start..].iter().position(|token| token == ";").expect("a use ends");
        let before = &tokens[..start];
        let is_public = before.last().is_some_and(|token| token == "pub" || token == ")"); // `pub(crate)` too
        let mut add = |path: Vec<String>, name: String| {
            let is_of_the_file = path.len() == 2 && path[0] == "self"; // in an inline module
            (!is_of_the_file).then(|| uses.push(Use { path, name, is_public }));
        };
        use_tree(&tokens[start + 1..end], &[], &mut add);
    }
    uses
}

fn use_tree(tokens: &[String], prefix: &[String], add: &mut impl FnMut(Vec<String>, String)) {
    let mut path = prefix.to_vec();
    for (i, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "::" => {}
            "{" => {
                let (mut depth, mut start) = (0, i + 1);
                for (j, token) in tokens.iter().enumerate().skip(i + 1) {
                    match token.as_str() {
                        "{" => depth += 1,
                        "," if depth == 0 => {
                            use_tree(&tokens[start..j], &path, add);
                            start = j + 1;
                        }
                        "}" if depth == 0 => use_tree(&tokens[start..j], &path, add),
                        "}" => depth -= 1,
                        _ => {}
                    }
                }
                return;
            }
            "*" => return add(path, "*".into()),
            "as" => return add(path, tokens[i + 1].clone()),
            "self" if !path.is_empty() => {}
            name => path.push(name.into()),
        }
    }
    if let Some(name) = path.last().cloned() {
        add(path, name);
    }
}

/// Paths of more than one name outside `use` declarations.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let (mut paths, mut i) = (vec![], 0);
    while i < tokens.len() {
        if tokens[i] == "use" {
            i += tokens[i..].iter().position(|token| token == ";").expect("a use ends");
        } else if is_name(&tokens[i]) && (i == 0 || !["::", "."].contains(&&*tokens[i - 1])) {
            let mut path = vec![tokens[i].clone()];
            while i + 2 < tokens.len() && tokens[i + 1] == "::" && is_name(&tokens[i + 2]) {
                path.push(tokens[i + 2].clone());
                i += 2;
            }
            if path.len() > 1 {
                paths.push(path);
            }
        }
        i += 1;
    }
    paths
}

#[test]
fn modules_of_a_crate_import_in_one_direction() {
    for each in crates() {
        let circles = each.circles();
        assert!(circles.is_empty(), "circles in {}:\n{}", each.name, circles.join("\n"));
    }
}

#[test]
fn a_public_types_name_is_used_once_in_the_workspace() {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for each in crates() {
        for (index, module) in each.modules.iter().enumerate() {
            let types = module.tokens.windows(3).filter(|t| {
                t[0] == "pub" && ["struct", "enum", "trait", "type", "union"].contains(&&*t[1]) && is_name(&t[2])
            });
            for t in types {
                files.entry(t[2].clone()).or_default().push(format!("{}/src/{}", each.name, each.name_of(index)));
            }
        }
    }
    files.retain(|name, files| files.len() > 1 && SHARED_NAMES.iter().all(|(shared, _)| shared != name));
    assert!(files.is_empty(), "{files:#?}");
}

#[test]
fn files_are_short() {
    let mut long = BTreeMap::new();
    for each in crates() {
        for (index, module) in each.modules.iter().enumerate().filter(|(_, module)| module.lines > LONGEST) {
            long.insert(format!("{}/src/{}", each.name, each.name_of(index)), module.lines);
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// Functions, those of tests left out, end within this many lines; rustfmt puts the closing brace where the function begins.
const LONGEST_FUNCTION: usize = 70;

#[test]
fn functions_are_short() {
    let mut long = BTreeMap::new();
    for each in crates() {
        for (index, module) in each.modules.iter().enumerate() {
            let text = std::fs::read_to_string(&module.file).expect("a source");
            let lines: Vec<&str> = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).collect();
            for (start, line) in lines.iter().enumerate() {
                let (before, _) = line.split_once("fn ").unwrap_or(("//", ""));
                let is_function = before.split_whitespace().all(|word| word.starts_with("pub") || word == "const");
                let indent = " ".repeat(line.len() - line.trim_start().len());
                // the line that ends the signature: of a declaration alone it ends with a semicolon
                let signature = lines[start..].iter().find(|line| {
                    line.starts_with(&indent)
                        && !line[indent.len()..].starts_with(' ')
                        && line.ends_with(['{', ';', '}'])
                });
                if is_function && signature.is_some_and(|line| line.ends_with('{')) {
                    let end = format!("{indent}}}");
                    let length = lines[start..].iter().position(|line| *line == end).map_or(0, |length| length + 1);
                    if length > LONGEST_FUNCTION {
                        long.insert(format!("{}/src/{}:{}", each.name, each.name_of(index), start + 1), length);
                    }
                }
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn modules_are_where_their_names_say() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/").to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder that can be listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                assert!(!text.contains(concat!("#[", "path")), "{} takes a module from elsewhere", path.display());
            }
        }
    }
}
