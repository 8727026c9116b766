//! Lists in pages.

use tonic::Status;

use super::status;

const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// How many a page of a list holds.
pub fn page(size: u32) -> usize {
    match size as usize {
        0 => PAGE,
        size => size.min(PAGE_MAX),
    }
}

/// One page of a list, and the token of the next page: the last item's, or none if this is the last page. The
/// list was read with one item more than a page.
pub fn page_of<T>(
    mut found: Vec<T>,
    size: usize,
    token: impl Fn(&T) -> String,
) -> (Vec<T>, String) {
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| more);
    let next = last.map_or_else(String::new, token);
    (found, next)
}

pub fn bad_page() -> Status {
    status::invalid("the page token is none that was given")
}
