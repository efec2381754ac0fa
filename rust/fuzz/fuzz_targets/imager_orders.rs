//! What the armed machine leaves for the imager: the job, and who the machine is.
#![no_main]

use holdfast_imager::identity::Identity;
use holdfast_imager::job::{Job, Source};
use holdfast_imager::source::url::Url;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Identity::parse(data);
    if let Ok(job) = Job::parse(data) {
        assert!(job.outcome.offset_bytes + job.outcome.length_bytes <= job.target.size_bytes);
        if let Source::Network { url } = &job.source {
            let _ = Url::parse(url);
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(url) = Url::parse(text)
    {
        let _ = url.join(text);
    }
});
