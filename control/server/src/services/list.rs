//! Lists: pages of one revision.

use penstock_api::names::{Kind, ResourceName};
use penstock_api::resource::Resource;
use penstock_store::Revision;
use tonic::Code;

use super::core::Core;
use crate::fault::{Fault, Result};
use crate::repo::Stored;
use crate::token::{PageToken, ResumeToken};
use crate::validate;

/// A page of a list.
pub struct Listed<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// For the next page; empty on the last.
    pub next_page_token: String,
    /// Watch from here.
    pub resume_token: String,
    /// What all pages are as of.
    pub revision: Revision,
}

/// Where a list stands.
pub struct Cursor {
    /// Most to return.
    pub limit: usize,
    /// The ids after which the page begins.
    pub after: Option<String>,
    /// The revision of the pages before.
    pub revision: Option<Revision>,
    store_id: String,
    query: String,
}

impl Core {
    /// Reads where a list stands.
    ///
    /// # Errors
    /// INVALID_ARGUMENT; OUT_OF_RANGE where the store is another one than the page before came from.
    pub async fn cursor(&self, query: String, size: i32, token: &str) -> Result<Cursor> {
        let limit = validate::page_size(size)?;
        let token = if token.is_empty() {
            None
        } else {
            Some(PageToken::parse(token, &query)?)
        };
        let store_id = self.repo.store().id().await?;
        if let Some(token) = &token
            && token.store_id != store_id
        {
            return Err(stale_page(
                "the store was made anew or restored since the page before",
            ));
        }
        let (after, revision) = token.map(|t| (t.after, t.revision)).unzip();
        Ok(Cursor {
            limit,
            after,
            revision,
            store_id,
            query,
        })
    }

    /// A resource by the name that a user gave.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND; the store's.
    pub async fn get<R: Resource>(&self, name: &str) -> Result<R> {
        Ok(self.stored::<R>("name", name).await?.resource)
    }

    /// As [`Core::get`], by a field of another name, with where it stands in the store.
    ///
    /// # Errors
    /// As [`Core::get`].
    pub async fn stored<R: Resource>(&self, field: &str, name: &str) -> Result<Stored<R>> {
        let name = validate::name(R::KIND, field, name)?;
        self.repo
            .get::<R>(&name.key())
            .await?
            .ok_or_else(|| Fault::not_found(&name.to_string()))
    }

    /// A page of resources; `parent` `None` is all.
    ///
    /// # Errors
    /// As [`Core::cursor`]; OUT_OF_RANGE where history no longer has the revision of the pages; the
    /// store's.
    pub async fn page<R: Resource>(
        &self,
        parent: Option<&ResourceName>,
        size: i32,
        token: &str,
    ) -> Result<Listed<Stored<R>>> {
        let prefix = parent.map_or_else(String::new, |parent| format!("{}/", parent.key()));
        let cursor = self
            .cursor(format!("{} {prefix}", R::KIND.collection()), size, token)
            .await?;
        let page = self
            .repo
            .list::<R>(
                &prefix,
                cursor.after.as_deref(),
                cursor.limit,
                cursor.revision,
            )
            .await
            .map_err(|fault| cursor.explain(fault))?;
        let last = page.items.last().map(|item| item.ids.clone());
        Ok(cursor.finish(page.items, last, page.more, page.revision))
    }
}

impl Cursor {
    /// What a failure to read a page means.
    pub fn explain(&self, fault: Fault) -> Fault {
        match fault.reason {
            "HISTORY_COMPACTED" => {
                stale_page("the store no longer has the history that the pages before are of")
            }
            "STORE_REPLACED" => stale_page("the store was restored since the page before"),
            _ => fault,
        }
    }

    /// The page with its tokens.
    pub fn finish<T>(
        self,
        items: Vec<T>,
        last: Option<String>,
        more: bool,
        revision: Revision,
    ) -> Listed<T> {
        let next_page_token = match last.filter(|_| more) {
            None => String::new(),
            Some(after) => PageToken {
                store_id: self.store_id.clone(),
                revision,
                after,
                query: self.query,
            }
            .to_text(),
        };
        let resume = ResumeToken {
            store_id: self.store_id,
            revision,
        };
        Listed {
            items,
            next_page_token,
            resume_token: resume.to_text(),
            revision,
        }
    }
}

fn stale_page(why: &str) -> Fault {
    Fault::new(
        Code::OutOfRange,
        "PAGE_TOKEN_TOO_OLD",
        format!("the list cannot be continued: {why}; list again from the first page"),
    )
}

/// Reads the parent of a list; `None` for all.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn parent(kind: Kind, text: &str) -> Result<Option<ResourceName>> {
    ResourceName::parse_parent(kind, text).map_err(|error| Fault::name("parent", &error))
}
