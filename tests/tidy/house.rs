//! The drawing of the house in `docs/architecture.md`, held against the imports of `src/`.
//!
//! The drawing is the rule: a module may import what its row says, and imports it. What is drawn and not
//! there, or there and not drawn, is a finding. Besides, no circle of imports crosses a folder, and no folder
//! has more files than a reader takes in. Tests may import what they like.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Finding, Source, is_test_file};

pub const DRAWING: &str = "docs/architecture.md";

/// Files of Rust beside each other in a folder.
const FOLDER_FILES_MAX: usize = 12;
/// Folders that a circle still crosses, or that hold too many files. The list only ever gets shorter.
const UNTIDY: &[&str] = &["tests/sim"];

type Names = Vec<String>;

/// The imports of `src/`, without its tests'.
pub struct House<'a> {
    /// The file of each module.
    modules: BTreeMap<Names, &'a Source>,
    /// Who imports whom, by path, and where.
    imports: Vec<(&'a Source, usize, &'a str)>,
    /// The same by modules of the crate.
    between_modules: Vec<(&'a Source, usize, String, String)>,
}

impl<'a> House<'a> {
    pub fn new(sources: &'a [Source]) -> Self {
        let product = sources.iter().filter(|source| source.is_product());
        let modules = product
            .clone()
            .map(|source| (module_of(&source.path), source));
        let mut house = Self {
            modules: modules
                .filter(|(_, source)| source.path != "src/main.rs")
                .collect(),
            imports: Vec::new(),
            between_modules: Vec::new(),
        };
        let tested = |path: &str| is_test_file(path);
        for source in product.filter(|source| !tested(&source.path) && source.path != "src/lib.rs")
        {
            let mut named: Vec<_> = source
                .imports
                .iter()
                .map(|i| (i.at, &i.path, i.exported))
                .collect();
            let paths = source.paths();
            let inline = paths
                .iter()
                .filter(|path| !path.imported && path.names.len() > 1);
            named.extend(inline.map(|path| (path.at, &path.names, false)));
            for (at, names, exported) in named.into_iter().filter(|(at, ..)| *at < source.tests_at)
            {
                let Some(names) = house.named_from_the_top(source, names) else {
                    continue;
                };
                let (from, to) = (
                    top_of(&source.path),
                    names.first().cloned().unwrap_or_default(),
                );
                if from != to && !to.is_empty() {
                    house.between_modules.push((source, at, from, to));
                }
                // What is handed on is imported by those who take it.
                let file = house.file_of(&names, 0).filter(|_| !exported);
                let file = file.filter(|file| file.path != source.path && !tested(&file.path));
                house
                    .imports
                    .extend(file.map(|file| (source, at, file.path.as_str())));
            }
        }
        house
    }

    /// A path as it reads from the crate's root; `None` if it leads elsewhere.
    fn named_from_the_top(&self, source: &Source, names: &[String]) -> Option<Names> {
        let module = module_of(&source.path);
        let ups = names.iter().take_while(|name| *name == "super").count();
        match names.first()?.as_str() {
            "crate" | "ferrolog" => Some(names[1..].to_vec()),
            "self" => Some([&module, &names[1..]].concat()),
            "super" => {
                Some([module.get(..module.len().checked_sub(ups)?)?, &names[ups..]].concat())
            }
            first => {
                let below = [module.as_slice(), &[first.to_owned()]].concat();
                let is_ours = source.path != "src/main.rs" && self.modules.contains_key(&below);
                is_ours.then(|| [module.as_slice(), names].concat())
            }
        }
    }

    /// The file that defines what a path leads to, through what other files hand on.
    fn file_of(&self, names: &[String], hops: usize) -> Option<&'a Source> {
        const HOPS_MAX: usize = 8;
        let length = (0..=names.len())
            .rev()
            .find(|&length| self.modules.contains_key(&names[..length]))?;
        let file = self.modules[&names[..length]];
        let handed_on = file
            .imports
            .iter()
            .find(|import| Some(&import.name) == names.get(length));
        let further = handed_on.filter(|_| hops < HOPS_MAX).and_then(|import| {
            let path = self.named_from_the_top(file, &import.path)?;
            self.file_of(&[path.as_slice(), &names[length + 1..]].concat(), hops + 1)
        });
        Some(further.unwrap_or(file))
    }

    /// What stands in a folder, and who imports whom there: a folder in it counts as one.
    fn within(&self, folder: &str) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let inside = |path: &'a str| {
            let rest = path.strip_prefix(folder)?.strip_prefix('/')?;
            let length = rest.find('/').map_or(rest.len(), |at| at + 1);
            Some(&rest[..length])
        };
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (source, _, to) in &self.imports {
            if let (Some(from), Some(to)) = (inside(&source.path), inside(to))
                && from != to
            {
                found.entry(from).or_default().insert(to);
            }
        }
        found
    }

    fn folders(&self) -> BTreeSet<&'a str> {
        let paths = self.modules.values().map(|source| source.path.as_str());
        let product = paths.filter(|path| !is_test_file(path));
        product.flat_map(folders_of).collect()
    }

    /// No circle of imports crosses a folder.
    pub fn circles(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for folder in self
            .folders()
            .into_iter()
            .filter(|folder| !UNTIDY.contains(folder))
        {
            let reached = closure(self.within(folder));
            let back = |name: &str, other: &str| {
                reached
                    .get(other)
                    .is_some_and(|reached| reached.contains(name))
            };
            for name in reached
                .keys()
                .filter(|name| name.ends_with('/') && back(name, name))
            {
                let others = reached[name]
                    .iter()
                    .filter(|other| *other != name && back(name, other));
                let others: Vec<_> = others.copied().collect();
                let what = format!(
                    "a circle of imports leads out of it and back, by {}",
                    others.join(", ")
                );
                findings.push(Finding::new(&format!("{folder}/{name}"), 1, what));
            }
        }
        findings
    }

    /// What each module and each folder in one imports, and where.
    fn arrows(&self) -> BTreeMap<String, BTreeMap<String, Finding>> {
        let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        let modules = self.modules.values().map(|source| top_of(&source.path));
        let rooms = self
            .folders()
            .into_iter()
            .filter_map(|folder| folder.strip_prefix("src/"));
        let names = modules
            .chain(rooms.map(str::to_owned))
            .chain(["main".to_owned()]);
        found.extend(
            names
                .filter(|name| name != "lib")
                .map(|name| (name, BTreeMap::new())),
        );
        let mut import = |from: &str, to: &str, source: &Source, at: usize| {
            let what = format!(
                "`{from}` may not import `{to}`, says {DRAWING}: imports point down only; move the code \
                 down, or let the caller own a trait"
            );
            let imports = found.entry(from.to_owned()).or_default();
            imports
                .entry(to.to_owned())
                .or_insert_with(|| source.finding(at, what));
        };
        for (source, at, from, to) in &self.between_modules {
            import(from, to, source, *at);
        }
        for (source, at, to) in &self.imports {
            let (from, to) = (folders_of(&source.path), folders_of(to));
            // The two folders, beside each other, that the import leads from and to.
            let apart = from.iter().zip(&to).find(|(from, to)| from != to);
            if let Some((from, to)) = apart.filter(|(from, _)| from.matches('/').count() > 1) {
                let to = to.rsplit('/').next().expect("a folder has a name");
                import(&from["src/".len()..], to, source, *at);
            }
        }
        found
    }

    /// The drawing has a row for each module and each folder in one, with what it imports: no more and no less.
    pub fn drawing(&self, page: &str) -> Vec<Finding> {
        let mut arrows = self.arrows();
        let mut findings = Vec::new();
        for Row {
            line,
            name,
            imports,
        } in rows(page)
        {
            let at_row = |what| Finding::new(DRAWING, line, what);
            let Some(mut found) = arrows.remove(&name) else {
                findings.push(at_row(format!("there is no `{name}` in src: drop its row")));
                continue;
            };
            let module = name
                .rsplit_once('/')
                .map(|(module, _)| format!("src/{module}"));
            if module.is_some_and(|module| UNTIDY.contains(&module.as_str())) {
                continue;
            }
            let unused = imports.iter().filter(|to| found.remove(*to).is_none());
            let what = |to| format!("`{name}` does not import `{to}`: drop that from its row");
            findings.extend(unused.map(|to| at_row(what(to))));
            findings.extend(found.into_values());
        }
        let what = |name| format!("`{name}` has no row in the drawing: say what it is for");
        findings.extend(
            arrows
                .into_keys()
                .map(|name| Finding::new(DRAWING, 1, what(name))),
        );
        findings
    }
}

/// No folder has too many files beside each other, those of tests included.
pub fn crowds(sources: &[Source]) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let folders = sources
        .iter()
        .filter_map(|source| source.path.rsplit_once('/'));
    folders.for_each(|(folder, _)| *counts.entry(folder).or_default() += 1);
    let crowds = counts
        .into_iter()
        .filter(|(_, count)| *count > FOLDER_FILES_MAX);
    let crowds = crowds.filter(|(folder, _)| !UNTIDY.contains(folder));
    let what = |count| {
        format!("{count} files beside each other, {FOLDER_FILES_MAX} at most: give them rooms")
    };
    crowds
        .map(|(folder, count)| Finding::new(folder, 1, what(count)))
        .collect()
}

/// Who is reached from whom, over any number of imports.
fn closure<'a>(
    mut graph: BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    loop {
        let before = graph.clone();
        for reached in graph.values_mut() {
            let further = reached.iter().filter_map(|name| before.get(name)).flatten();
            let further: Vec<_> = further.copied().collect();
            reached.extend(further);
        }
        if graph == before {
            return graph;
        }
    }
}

/// The module that a file of `src/` is, by names.
fn module_of(path: &str) -> Names {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inner = inner.trim_end_matches("/mod").trim_end_matches("lib");
    inner
        .split('/')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The module of the crate that a file belongs to.
fn top_of(path: &str) -> String {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').next().unwrap_or_default().to_owned()
}

/// The folders that a file is in, the outermost first.
fn folders_of(path: &str) -> Vec<&str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).collect()
}

/// One row of the drawing.
struct Row {
    line: usize,
    name: String,
    imports: BTreeSet<String>,
}

/// The rows of all tables whose third column says what is imported.
fn rows(page: &str) -> Vec<Row> {
    let mut found = Vec::new();
    let mut is_drawing = false;
    for (number, line) in page.lines().enumerate() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        is_drawing = cells.len() == 5 && (is_drawing || cells[3] == "imports");
        let quoted = |cell: &str| {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        if is_drawing && let [name] = quoted(cells[1]).as_slice() {
            let imports = quoted(cells[3]).into_iter().collect();
            let (line, name) = (number + 1, name.clone());
            found.push(Row {
                line,
                name,
                imports,
            });
        }
    }
    found
}

// ---- over samples: each rule fires -----------------------------------------------------------------

fn house(files: &[(&str, &str)], look: impl Fn(&House<'_>) -> Vec<Finding>) -> Vec<String> {
    let sources: Vec<_> = files
        .iter()
        .map(|(path, text)| Source::new(path, text))
        .collect();
    let findings = look(&House::new(&sources));
    findings
        .iter()
        .map(|finding| format!("{}:{}", finding.path, finding.line))
        .collect()
}

const LIB: (&str, &str) = ("src/lib.rs", "");
const LOG: (&str, &str) = ("src/log/mod.rs", "mod file; pub use file::Log;");

#[test]
fn an_import_that_is_not_drawn_is_found() {
    let page = "| module | what it is for | imports |\n|-|-|-|\n| `main` | x | `raft` |\n| `log` | x | |\n| `raft` | x | `log` |\n";
    let main = ("src/main.rs", "fn main() { ferrolog::raft::run() }");
    let drawn = |file: &str, raft: &str| {
        house(
            &[
                LIB,
                LOG,
                main,
                ("src/log/file.rs", file),
                ("src/raft.rs", raft),
            ],
            |house| house.drawing(page),
        )
    };
    let downward = "use crate::log::Log;";
    let fine = "// as crate::raft::X\nfn f() -> &'static str { \"crate::raft::X\" }\n#[cfg(test)]\nmod tests {\n    use crate::raft::X;\n}";
    assert_eq!(drawn(fine, downward), [""; 0]);
    for upward in [
        "//!\nuse crate::raft::types::Term;",
        "use crate::{\n raft::Offset,\n};",
        "\nfn f() { crate::raft::start() }",
        "\nfn f() { g!(crate::raft::start()) }",
        "\nuse super::super::raft::X;",
        "#[cfg(test)]\nuse crate::raft::X;",
    ] {
        assert_eq!(drawn(upward, downward), ["src/log/file.rs:2"], "{upward}");
    }
    assert_eq!(
        drawn(fine, ""),
        [format!("{DRAWING}:5")],
        "an arrow that is not there"
    );
    let more = [
        LIB,
        LOG,
        main,
        ("src/raft/mod.rs", downward),
        ("src/raft/room/mod.rs", ""),
    ];
    let undrawn = house(&more, |house| house.drawing(page));
    assert_eq!(undrawn, [format!("{DRAWING}:1")], "a folder without a row");
    assert_eq!(
        house(&more[..3], |house| house.drawing(page)).len(),
        1,
        "a row without a module"
    );
}

#[test]
fn imports_between_rooms_are_held_against_the_drawing() {
    let page = "| room | what it is for | imports |\n| `main` | x | |\n| `log` | x | |\n| `log/a` | x | |\n| `log/b` | x | `a` |\n";
    let drawn = |a: &str, b: &str| {
        let files = [
            LIB,
            ("src/log/mod.rs", "mod a; mod b; pub use a::A;"),
            ("src/log/a/mod.rs", a),
            ("src/log/b/mod.rs", b),
        ];
        house(&files, |house| house.drawing(page))
    };
    assert_eq!(
        drawn("", "use crate::log::A;"),
        [""; 0],
        "what is handed on counts as its home's"
    );
    assert_eq!(
        drawn("\nuse super::b::B;", "use super::a::A;"),
        ["src/log/a/mod.rs:2"]
    );
    assert_eq!(drawn("", ""), [format!("{DRAWING}:5")]);
}

#[test]
fn a_circle_that_crosses_a_folder_is_found() {
    let circles = |log: &str, state: &str, room: &str| {
        let files = [
            LIB,
            ("src/log/mod.rs", log),
            ("src/log/state.rs", state),
            ("src/log/room/mod.rs", room),
            ("src/log/room/b.rs", "use super::A;"),
        ];
        house(&files, |house| house.circles())
    };
    let handle = "mod room; mod state; pub use room::A; use room::b::B; struct Log;";
    assert_eq!(
        circles(handle, "use super::room::A;", "mod b; use b::B; struct A;"),
        [""; 0],
        "within a folder"
    );
    assert_eq!(
        circles(handle, "use super::room::A;", "use crate::log::Log;"),
        ["src/log/room/:1"]
    );
    assert_eq!(
        circles(
            "mod room; mod state;",
            "use super::room::A;",
            "use super::state::S;"
        ),
        ["src/log/room/:1"]
    );
    let handed_on = "mod room; mod state; pub use room::A; pub use state::S;";
    assert_eq!(
        circles(handed_on, "use super::A;", "use super::S;"),
        ["src/log/room/:1"]
    );
    assert_eq!(circles(handed_on, "", "use super::S;"), [""; 0]);
}

#[test]
fn a_crowd_is_found() {
    let many = |count: usize| {
        (0..count)
            .map(|n| Source::new(&format!("src/a/{n}.rs"), ""))
            .collect::<Vec<_>>()
    };
    assert!(crowds(&many(FOLDER_FILES_MAX)).is_empty());
    assert_eq!(crowds(&many(FOLDER_FILES_MAX + 1)).len(), 1);
}
