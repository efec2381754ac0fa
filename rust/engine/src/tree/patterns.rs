//! Which paths are meant: include and exclude patterns.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{Error, Result};

/// More patterns than anybody writes by hand.
const MOST: usize = 1000;
/// Bytes of all patterns together: compiling takes time and memory in proportion to them, about
/// 600 bytes for each.
const MOST_BYTES: usize = 64 << 10;

/// Patterns of the shell (`*`, `?`, `[a-z]`, `{a,b}`). One without a slash is about the name at any
/// depth, one with a slash about the whole path relative to the directory that is walked; `*` does
/// not cross a slash, `**` does.
#[derive(Debug, Clone)]
pub struct Patterns {
    include: Option<Set>,
    exclude: Set,
}

#[derive(Debug, Clone)]
struct Set {
    names: GlobSet,
    paths: GlobSet,
}

impl Set {
    fn new(patterns: &[String]) -> Result<Self> {
        if patterns.len() > MOST {
            return Err(Error::Invalid(format!("there are more than {MOST} patterns")));
        }
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let bad = |reason: &dyn std::fmt::Display| {
                Error::Invalid(format!("the pattern {pattern:?} is malformed: {reason}"))
            };
            let whole = pattern.trim_start_matches('/').trim_end_matches('/');
            if whole.is_empty() {
                return Err(bad(&"it is empty"));
            }
            let glob = GlobBuilder::new(whole)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| bad(error.kind()))?;
            let about_path = whole.contains('/') || pattern.starts_with('/');
            if about_path { &mut paths } else { &mut names }.add(glob);
        }
        let build = |set: &GlobSetBuilder| {
            set.build().map_err(|error| Error::Invalid(format!("the patterns: {error}")))
        };
        Ok(Self { names: build(&names)?, paths: build(&paths)? })
    }

    fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        let is_match = |set: &GlobSet, path: &[u8]| {
            !set.is_empty() && set.is_match(Path::new(std::ffi::OsStr::from_bytes(path)))
        };
        is_match(&self.names, name) || is_match(&self.paths, path)
    }
}

impl Patterns {
    /// Compile patterns.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the malformed one, or if they are too large together.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let bytes: usize = include.iter().chain(exclude).map(String::len).sum();
        if bytes > MOST_BYTES {
            return Err(Error::Invalid(format!(
                "the patterns have {bytes} bytes together, and {MOST_BYTES} are the most"
            )));
        }
        let include = (!include.is_empty()).then(|| Set::new(include)).transpose()?;
        Ok(Self { include, exclude: Set::new(exclude)? })
    }

    /// Whether something is left out; a directory then with all that is in it.
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.exclude.matches(path)
    }

    /// Whether something that is not left out is meant. A directory that is not may yet have
    /// something in it that is.
    pub fn includes(&self, path: &[u8]) -> bool {
        self.include.as_ref().is_none_or(|include| include.matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::Patterns;

    fn patterns(include: &[&str], exclude: &[&str]) -> Patterns {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        Patterns::new(&own(include), &own(exclude)).unwrap()
    }

    #[test]
    fn names_match_at_any_depth_and_paths_from_the_top() {
        let found = patterns(&["*.db", "logs/*", "a/**/z"], &["tmp", "/top", "x/y/"]);
        for path in ["a.db", "deep/er/b.db", "logs/one", "a/z", "a/b/c/z"] {
            assert!(found.includes(path.as_bytes()), "{path}");
        }
        for path in ["a.dbx", "logs/one/two", "other/logs/one", "b/a/z"] {
            assert!(!found.includes(path.as_bytes()), "{path}");
        }
        for path in ["tmp", "a/tmp", "top", "x/y"] {
            assert!(found.excludes(path.as_bytes()), "{path}");
        }
        for path in ["tmp2", "a/top", "a/x/y"] {
            assert!(!found.excludes(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn names_that_are_no_text_match_as_well() {
        assert!(patterns(&["*.db"], &[]).includes(b"\xff\n.db"));
        assert!(patterns(&[], &[]).includes(b"anything"));
    }

    #[test]
    fn a_malformed_pattern_is_named() {
        let error = Patterns::new(&["[z-a]".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().contains("\"[z-a]\""), "{error}");
        assert!(Patterns::new(&[], &["//".to_owned()]).is_err());
        let large = vec!["x".repeat(4096); 9];
        let error = Patterns::new(&large, &large).unwrap_err();
        assert!(error.to_string().contains("73728 bytes together"), "{error}");
    }
}
