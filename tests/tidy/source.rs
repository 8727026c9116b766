//! A file of Rust as the rules see it: tokens, comments, imports, functions, and where its tests begin.
//!
//! `proc_macro2` reads the tokens and `syn` the items. What no token covers is a comment.

use std::fmt;
use std::ops::Range;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ItemMod, ItemUse, Signature, UseTree};

/// What is wrong, and where.
#[derive(Debug)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub what: String,
}

impl Finding {
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        let (path, what) = (path.to_owned(), what.into());
        Self { path, line, what }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// A word, a mark, a literal or a bracket.
pub struct Token {
    pub text: String,
    pub at: usize,
    pub end: usize,
    /// A string or a character.
    pub quoted: bool,
}

/// A name that is imported: its path, and what it is called here.
pub struct Import {
    pub path: Vec<String>,
    pub name: String,
    /// Whether others import it from here.
    pub exported: bool,
    pub at: usize,
}

/// A path in the code, imports among them.
pub struct Path {
    pub names: Vec<String>,
    pub at: usize,
    pub end: usize,
    pub imported: bool,
}

pub struct Function {
    pub name: String,
    pub at: usize,
    pub lines: usize,
}

pub struct Source {
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
    /// The text with all but the comments blank, and with all but what is quoted blank.
    pub comments: String,
    pub quoted: String,
    pub imports: Vec<Import>,
    pub functions: Vec<Function>,
    /// Where the tests at the end of the file begin, in bytes: 0 in a file of tests.
    pub tests_at: usize,
    import_items: Vec<Range<usize>>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let stream: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path}: {e}"));
        let file = syn::parse_file(text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut tokens = Vec::new();
        flatten(stream, text, &mut tokens);
        let mut source = Self {
            path: path.to_owned(),
            text: text.to_owned(),
            comments: without(text, &tokens),
            quoted: quoted(text, &tokens),
            tokens,
            imports: Vec::new(),
            functions: Vec::new(),
            tests_at: if is_test_file(path) { 0 } else { text.len() },
            import_items: Vec::new(),
        };
        source.visit_file(&file);
        source
    }

    pub fn is_product(&self) -> bool {
        self.path.starts_with("src/")
    }

    pub fn finding(&self, at: usize, what: impl Into<String>) -> Finding {
        let line = self.text[..at].matches('\n').count() + 1;
        Finding::new(&self.path, line, what)
    }

    /// Every path that the code names.
    pub fn paths(&self) -> Vec<Path> {
        let imports = self.imports.iter().map(|import| Path {
            names: import.path.clone(),
            at: import.at,
            end: import.at,
            imported: true,
        });
        let mut found: Vec<_> = imports.collect();
        let is = |at: usize, text: &str| self.tokens.get(at).is_some_and(|t| t.text == text);
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            let (start, mut end) = (token.at, token.end);
            let inside = |item: &Range<usize>| item.contains(&start);
            // Who may see an item, as in `pub(in a::b)`, is no import.
            let is_scope = at > 1 && is(at - 1, "in") && is(at - 2, "(");
            if !is_word(&token.text) || self.import_items.iter().any(inside) {
                at += 1;
                continue;
            }
            let mut names = vec![token.text.clone()];
            at += 1;
            while is(at, ":") && is(at + 1, ":") {
                let Some(next) = self.tokens.get(at + 2).filter(|next| is_word(&next.text)) else {
                    break;
                };
                names.push(next.text.clone());
                (at, end) = (at + 3, next.end);
            }
            if is_scope {
                continue;
            }
            let (at, imported) = (start, false);
            found.push(Path {
                names,
                at,
                end,
                imported,
            });
        }
        found
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        let at = signature.fn_token.span.byte_range().start;
        let lines =
            block.brace_token.span.close().end().line + 1 - signature.fn_token.span.start().line;
        let name = signature.ident.to_string();
        self.functions.push(Function { name, at, lines });
    }
}

impl Visit<'_> for Source {
    fn visit_item_use(&mut self, item: &ItemUse) {
        let start = item.use_token.span.byte_range().start;
        self.import_items
            .push(start..item.semi_token.span.byte_range().end);
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        leaves(&item.tree, &mut Vec::new(), exported, &mut self.imports);
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        let test = item.attrs.iter().find(|attribute| is_for_tests(attribute));
        if let Some(test) = test.filter(|_| item.content.is_some()) {
            self.tests_at = self.tests_at.min(test.pound_token.span.byte_range().start);
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// A file, or a folder of files, that holds the tests of a long module.
pub fn is_test_file(path: &str) -> bool {
    let is_tests = |part: &str| part == "tests" || part.ends_with("_tests");
    path.starts_with("src/") && path.trim_end_matches(".rs").split('/').any(is_tests)
}

pub fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let list = attribute.meta.require_list();
    list.is_ok_and(|list| {
        let condition = list.tokens.to_string();
        let needs_test = condition == "test" || condition.replace(' ', "").starts_with("all(test,");
        list.path.is_ident("cfg") && needs_test
    })
}

fn leaves(tree: &UseTree, prefix: &mut Vec<String>, exported: bool, found: &mut Vec<Import>) {
    let mut leaf = |last: &str, name: String, span: Span| {
        let mut path = prefix.clone();
        if last != "self" {
            path.push(last.to_owned());
        }
        let at = span.byte_range().start;
        let name = if name == "self" {
            path[path.len() - 1].clone()
        } else {
            name
        };
        found.push(Import {
            path,
            name,
            exported,
            at,
        });
    };
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            leaves(&path.tree, prefix, exported, found);
            prefix.pop();
        }
        UseTree::Group(group) => {
            let items = group.items.iter();
            items.for_each(|tree| leaves(tree, prefix, exported, found));
        }
        UseTree::Name(name) => leaf(
            &name.ident.to_string(),
            name.ident.to_string(),
            name.ident.span(),
        ),
        UseTree::Rename(name) => leaf(
            &name.ident.to_string(),
            name.rename.to_string(),
            name.ident.span(),
        ),
        UseTree::Glob(glob) => leaf("self", "*".to_owned(), glob.star_token.span),
    }
}

/// The tokens one after the other. A comment of documentation is read as an attribute, all parts of which
/// stand where the comment does: it stays a comment.
fn flatten(stream: TokenStream, text: &str, tokens: &mut Vec<Token>) {
    let push = |range: Range<usize>, tokens: &mut Vec<Token>| {
        let part = text[range.clone()].to_owned();
        tokens.push(Token {
            quoted: part.ends_with(['"', '#', '\'']) && part.len() > 1,
            text: part,
            at: range.start,
            end: range.end,
        });
    };
    let mut trees = stream.into_iter();
    while let Some(tree) = trees.next() {
        let range = tree.span().byte_range();
        let mark = |mark: char| matches!(&tree, TokenTree::Punct(punct) if punct.as_char() == mark);
        if mark('#') && text[range.start..].starts_with('/') {
            trees
                .by_ref()
                .find(|tree| matches!(tree, TokenTree::Group(_)));
            continue;
        }
        match tree {
            TokenTree::Group(group) => {
                push(group.span_open().byte_range(), tokens);
                flatten(group.stream(), text, tokens);
                push(group.span_close().byte_range(), tokens);
            }
            _ => push(range, tokens),
        }
    }
}

/// The text with the tokens blank. Lengths and lines stay.
fn without(text: &str, tokens: &[Token]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    tokens
        .iter()
        .for_each(|token| blank(&mut bytes[token.at..token.end]));
    String::from_utf8(bytes).expect("cut at tokens, so still UTF-8")
}

/// The text with all but the quoted tokens blank.
fn quoted(text: &str, tokens: &[Token]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    blank(&mut bytes);
    for Token { at, end, .. } in tokens.iter().filter(|token| token.quoted) {
        bytes[*at..*end].copy_from_slice(&text.as_bytes()[*at..*end]);
    }
    String::from_utf8(bytes).expect("cut at tokens, so still UTF-8")
}

fn blank(bytes: &mut [u8]) {
    let inside = bytes.iter_mut().filter(|byte| **byte != b'\n');
    inside.for_each(|byte| *byte = b' ');
}
