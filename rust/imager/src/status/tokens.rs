//! Who may see the status: the daemon's tokens, of which only digests are known.

use holdfast_engine::image::Sha256;
use serde::Deserialize;

use crate::{Context as _, Fault, Result, clock};

/// The daemon's file of tokens.
#[derive(Debug, Clone, Deserialize)]
pub struct Tokens {
    version: u64,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Deserialize)]
struct Token {
    sha256: Sha256,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    expires_at: Option<String>,
}

impl Tokens {
    /// Read the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let tokens: Self = serde_json::from_slice(json).context("the tokens cannot be used")?;
        if tokens.version == 1 {
            Ok(tokens)
        } else {
            Err(Fault::new("the tokens are of an unknown version"))
        }
    }

    /// Whether the value of an `Authorization` header has a token that is known and counts. Every scope
    /// may look but `images`, with which other nodes download the staged image and nothing else.
    pub fn admit(&self, authorization: &str) -> bool {
        let Some((scheme, secret)) = authorization.split_once(' ') else { return false };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return false;
        }
        // Digests are compared, of which nobody can choose a part: their timing reveals nothing.
        let digest = Sha256::of(secret.trim().as_bytes());
        self.tokens.iter().any(|token| token.sha256 == digest && token.counts())
    }
}

impl Token {
    fn counts(&self) -> bool {
        if self.scope == "images" {
            return false;
        }
        // A time that cannot be read is over.
        let expires = self.expires_at.as_deref();
        expires.is_none_or(|time| clock::parse(time).is_some_and(|time| time > clock::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_for_images_does_not_see_the_status() {
        let digest = Sha256::of(b"secret").to_string();
        for (scope, admitted) in [("read", true), ("admin", true), ("images", false)] {
            let json = format!(
                r#"{{"version": 1, "tokens": [{{"sha256": "{digest}", "scope": "{scope}"}}]}}"#
            );
            let tokens = Tokens::parse(json.as_bytes()).unwrap();
            assert_eq!(tokens.admit("Bearer secret"), admitted, "{scope}");
        }
    }
}
