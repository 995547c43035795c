//! Get and list.

use std::sync::Arc;

use crate::failure::{Cause, Failure};
use crate::request::Request;
use crate::selector::Selector;
use crate::server::{Answer, Server};
use crate::store::{Key, Object, Page};
use crate::view::ListMeta;

/// Where a list goes on: the revision it shows, and the last key told.
fn parse_token(token: &str) -> Result<(u64, Key), Failure> {
    let bad = || Failure::bad_request("continue key is not valid");
    let mut parts = token.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(revision), Some(namespace), Some(name)) => {
            Ok((revision.parse().map_err(|_| bad())?, (namespace.to_owned(), name.to_owned())))
        }
        _ => Err(bad()),
    }
}

impl Request {
    /// The key of the object that the path names.
    pub fn key(&self) -> Key {
        (self.namespace().to_owned(), self.name.clone().unwrap_or_default())
    }

    /// Where to look for what the selector selects.
    pub fn page(&self, selector: &Selector) -> Page {
        let cluster = (!self.resource.namespaced).then(String::new);
        Page {
            namespace: self.namespace.clone().or(cluster),
            name: selector.only_name().map(str::to_owned),
            ..Page::default()
        }
    }

    /// The selectors of the query.
    ///
    /// # Errors
    /// 400 if they cannot be parsed, or name fields that the resource cannot be selected by.
    pub fn selector(&self) -> Result<Selector, Failure> {
        Selector::parse(self.query.get("labelSelector"), self.query.get("fieldSelector"), &self.resource)
    }
}

impl Server {
    /// The object that the path names.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn live(&self, request: &Request) -> Result<Arc<Object>, Failure> {
        let key = request.key();
        self.store.get(&request.resource.table, &key).ok_or_else(|| Failure::not_found(&request.resource, &key.1))
    }

    /// Shows one object.
    ///
    /// # Errors
    /// 404 if there is none, 504 for a revision to come.
    pub fn get(&self, request: &Request) -> Result<Answer, Failure> {
        let asked = request.query.number("resourceVersion")?.unwrap_or_default();
        if asked > self.store.revision() {
            return Err(Failure::too_new(asked, self.store.revision()));
        }
        Ok(Answer::json(request.view.object(&request.resource, &*self.live(request)?)))
    }

    /// Shows a list or a page of it.
    ///
    /// # Errors
    /// 400 for parameters that make no sense, 410 for a revision that is gone, 504 for one to come.
    pub fn list(&self, request: &Request) -> Result<Answer, Failure> {
        let selector = request.selector()?;
        let limit = request.query.number("limit")?.filter(|limit| *limit > 0);
        let page = self.page(request, &selector)?;
        let (objects, revision) = self
            .store
            .list(&request.resource.table, &page)
            .map_err(|gone| Failure::expired(page.revision.unwrap_or_default(), gone.oldest))?;
        let total = objects.len();
        let mut selected = objects.into_iter().filter(|object| selector.is_empty() || selector.matches(&object.value));
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let shown: Vec<Arc<Object>> = selected.by_ref().take(limit).collect();
        let mut meta = ListMeta { revision, ..ListMeta::default() };
        if let Some(last) = shown.last().filter(|_| shown.len() == limit)
            && selected.next().is_some()
        {
            meta.next = format!("{revision}/{}/{}", last.key.0, last.key.1);
            meta.remaining = selector.is_empty().then(|| total - shown.len());
        }
        Ok(Answer::json(request.view.list(&request.resource, &shown, &meta)))
    }

    fn page(&self, request: &Request, selector: &Selector) -> Result<Page, Failure> {
        let mut page = request.page(selector);
        let token = request.query.get("continue");
        let asked = request.query.number("resourceVersion")?;
        let matching = request.query.get("resourceVersionMatch");
        if !token.is_empty() {
            let (revision, after) = parse_token(token)?;
            page.revision = Some(revision);
            page.after = Some(after);
            return Ok(page);
        }
        match (asked, matching) {
            (None, "") => {}
            (None, _) => {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                return Err(Failure::bad_options("ListOptions", &Cause::forbidden("resourceVersionMatch", why)));
            }
            (Some(asked), _) if asked > self.store.revision() => {
                return Err(Failure::too_new(asked, self.store.revision()));
            }
            (Some(asked), "Exact") => page.revision = Some(asked),
            (Some(_), "" | "NotOlderThan") => {}
            (Some(_), other) => {
                return Err(Failure::bad_request(format!("resourceVersionMatch: unsupported value {other:?}")));
            }
        }
        Ok(page)
    }
}
