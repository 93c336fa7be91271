use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Invalid, Result};

/// What a page token belongs to: a token of one listing is refused by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageScope(String);

impl PageScope {
    /// `listing` names the operation, `of` what it lists.
    pub fn new(listing: &str, of: &str) -> Self {
        Self(format!("{listing}:{of}"))
    }
}

#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "s")]
    scope: PageScope,
    #[serde(rename = "a")]
    after: String,
}

/// One page of a listing: at most `limit` entries whose key comes after `after`.
///
/// Pages go by key, not by count, so that a listing neither skips nor repeats an entry while
/// others write.
#[derive(Debug, Clone)]
pub struct Page {
    pub scope: PageScope,
    pub limit: u32,
    pub after: Option<String>,
}

impl Page {
    /// How many entries a page has when the caller does not say.
    pub const DEFAULT_LIMIT: u32 = 1_000;
    /// The most entries of a page, whatever the caller says.
    pub const MAX_LIMIT: u32 = 10_000;

    /// # Errors
    /// [`Invalid`] for a limit under 1 and for a token that is not one of this listing's.
    pub fn new(scope: PageScope, limit: Option<i64>, token: Option<&str>) -> Result<Self> {
        let limit = match limit {
            None => Self::DEFAULT_LIMIT,
            Some(limit) if limit < 1 => {
                return Err(Invalid::new("limit must be at least 1"));
            }
            Some(limit) => u32::try_from(limit).unwrap_or(u32::MAX).min(Self::MAX_LIMIT),
        };
        let after = match token.filter(|token| !token.is_empty()) {
            None => None,
            Some(token) => Some(Self::decode(&scope, token)?),
        };
        Ok(Self { scope, limit, after })
    }

    fn decode(scope: &PageScope, token: &str) -> Result<String> {
        URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok())
            .filter(|token| token.scope == *scope && !token.after.contains(char::is_control))
            .map(|decoded| decoded.after)
            .ok_or_else(not_answered)
    }

    /// The key that the page continues from, in a listing that goes by keys of the catalog.
    ///
    /// # Errors
    /// [`Invalid`] for a token of no such key.
    pub fn after_key(&self) -> Result<Option<Uuid>> {
        let key = self.after.as_deref().map(Uuid::parse_str).transpose();
        key.map_err(|_| not_answered())
    }

    /// One more than the limit, to see whether another page follows.
    pub fn fetch_limit(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Of all names that there are, in order, those that a catalog would answer.
    pub fn of(&self, names: impl IntoIterator<Item = String>) -> Vec<String> {
        let after = self.after.as_deref().unwrap_or("");
        let names = names.into_iter().filter(|name| name.as_str() > after);
        names.take(self.limit as usize + 1).collect()
    }

    /// Cuts `rows` to the limit and gives the token of the next page, if there is one.
    pub fn finish<T>(&self, rows: &mut Vec<T>, key: impl Fn(&T) -> String) -> Option<String> {
        let limit = self.limit as usize;
        if rows.len() <= limit {
            return None;
        }
        rows.truncate(limit);
        let token = Token { scope: self.scope.clone(), after: key(rows.last()?) };
        let json = serde_json::to_vec(&token).unwrap_or_default();
        Some(URL_SAFE_NO_PAD.encode(json))
    }
}

fn not_answered() -> Invalid {
    Invalid::new("page_token is not one that this listing answered")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    #[test]
    fn a_token_opens_only_its_own_listing() {
        let scope = PageScope::new("tables", "ns");
        let page = Page::new(scope.clone(), Some(1), None).unwrap();
        let mut rows = vec!["a", "b"];
        let token = page.finish(&mut rows, |row| row.to_string()).unwrap();
        assert_eq!(rows, ["a"]);
        let next = Page::new(scope, Some(1), Some(&token)).unwrap();
        assert_eq!(next.after.as_deref(), Some("a"));
        assert!(Page::new(PageScope::new("tables", "other"), None, Some(&token)).is_err());
        assert!(Page::new(PageScope::new("tables", "ns"), None, Some("zzz")).is_err());
        assert!(Page::new(PageScope::new("tables", "ns"), Some(0), None).is_err());
    }

    proptest! {
        #[test]
        fn a_token_is_the_key_that_it_was_made_of(
            listing in "[a-z]{1,8}",
            of in any::<String>(),
            other in any::<String>(),
            keys in prop::collection::vec("\\PC{0,20}", 2..6),
            limit in 1..8_i64,
        ) {
            let scope = PageScope::new(&listing, &of);
            let page = Page::new(scope.clone(), Some(limit), None).unwrap();
            let mut rows = keys.clone();
            let token = page.finish(&mut rows, String::clone);
            let limit = usize::try_from(limit).unwrap();
            prop_assert_eq!(&rows, &keys[..limit.min(keys.len())]);
            prop_assert_eq!(token.is_some(), keys.len() > limit);
            let Some(token) = token else { return Ok(()) };
            prop_assert!(token.is_ascii());
            let next = Page::new(scope, None, Some(&token)).unwrap();
            prop_assert_eq!(next.after.as_ref(), rows.last());
            let elsewhere = Page::new(PageScope::new(&listing, &other), None, Some(&token));
            prop_assert_eq!(elsewhere.is_ok(), of == other);
        }

        #[test]
        fn no_other_text_is_a_token(
            raw in any::<String>(),
            at in any::<Index>(),
            byte in any::<u8>(),
            limit in any::<i64>(),
        ) {
            let scope = || PageScope::new("tables", "ns");
            let page = Page::new(scope(), Some(limit), None);
            prop_assert_eq!(page.is_ok(), limit >= 1);
            prop_assert!(page.map_or(1, |page| page.limit) <= Page::MAX_LIMIT);
            let token = Page::new(scope(), None, Some(&raw));
            prop_assert_eq!(token.is_ok(), raw.is_empty(), "{:?}", raw);
            // One byte of a good one: refused, or another key of the same listing.
            let mut rows = vec!["key one", "key two"];
            let page = Page::new(scope(), Some(1), None).unwrap();
            let mut token = page.finish(&mut rows, |row| row.to_string()).unwrap().into_bytes();
            let at = at.index(token.len());
            token[at] = byte;
            let Ok(token) = String::from_utf8(token) else { return Ok(()) };
            if let Ok(page) = Page::new(scope(), None, Some(&token)) {
                let after = page.after.unwrap();
                prop_assert!(!after.contains(char::is_control), "{:?}", after);
            }
        }
    }
}
