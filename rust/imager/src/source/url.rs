//! URLs of images, as far as fetching a file needs them.

use crate::{Fault, Result};

/// `http` or `https`, a host, a port, and what to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether with TLS.
    pub secure: bool,
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub target: String,
    /// Name and password, if it has some, as they stand there.
    pub credentials: Option<String>,
}

impl Url {
    /// Read a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Fault(format!("{text} is no http:// or https:// URL"));
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        let (scheme, rest) = text.split_once("://").filter(|_| printable).ok_or_else(wrong)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials.to_owned()), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if port.is_empty() => [80, 443][usize::from(secure)],
            None => return Err(wrong()),
        };
        if host.is_empty() {
            return Err(wrong());
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            target: format!("{slash}{target}"),
            credentials,
        })
    }

    /// Where a redirection from here leads.
    ///
    /// # Errors
    /// If it is no URL, or leads from https to http.
    pub fn join(&self, location: &str) -> Result<Self> {
        let next = if location.contains("://") && !location.starts_with('/') {
            Self::parse(location)?
        } else if let Some(rest) = location.strip_prefix("//") {
            Self::parse(&format!("{}://{rest}", if self.secure { "https" } else { "http" }))?
        } else if location.starts_with('/') {
            Self { target: location.to_owned(), ..self.clone() }
        } else {
            let path = self.target.split('?').next().unwrap_or("/");
            let directory = &path[..=path.rfind('/').unwrap_or(0)];
            Self { target: format!("{directory}{location}"), ..self.clone() }
        };
        if self.secure && !next.secure {
            return Err(Fault(format!("{} redirects from https to http", self.host)));
        }
        // The header is made of it.
        if !next.target.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Fault(format!("{} redirects to what is no URL", self.host)));
        }
        Ok(next)
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == [80, 443][usize::from(self.secure)] {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Url;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("https://me:secret@images.example:8443/a/b.zst?x=1#y").unwrap();
        assert_eq!((url.secure, url.host.as_str(), url.port), (true, "images.example", 8443));
        assert_eq!(
            (url.target.as_str(), url.authority().as_str()),
            ("/a/b.zst?x=1", "images.example:8443")
        );
        assert_eq!(url.credentials.as_deref(), Some("me:secret"));
        let six = Url::parse("http://[2001:db8::1]").unwrap();
        assert_eq!((six.host.as_str(), six.port, six.target.as_str()), ("2001:db8::1", 80, "/"));
        assert_eq!(six.authority(), "[2001:db8::1]");
        for wrong in ["ftp://x/", "http://", "http://x:y/", "http://x/ y", "x", "http://[::1/"] {
            Url::parse(wrong).unwrap_err();
        }
    }

    #[test]
    fn redirections_are_followed_but_not_out_of_tls() {
        let url = Url::parse("https://images.example/a/b").unwrap();
        assert_eq!(url.join("c").unwrap().target, "/a/c");
        assert_eq!(url.join("/c").unwrap().target, "/c");
        assert_eq!(url.join("//other/c").unwrap().host, "other");
        assert_eq!(url.join("https://other/c").unwrap().host, "other");
        url.join("http://images.example/a/b").unwrap_err();
        url.join("/a\r\nX: y").unwrap_err();
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(text in "(https?://)?.{0,60}", location in ".{0,60}") {
            if let Ok(url) = Url::parse(&text) {
                let _ = (url.authority(), url.join(&location));
            }
        }
    }
}
