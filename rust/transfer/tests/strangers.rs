//! What strangers and thieves get: nothing, at little cost.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use holdfast_engine::Progress;
use holdfast_transfer::{Certificate, Error, Limits, Secret, pull};
use support::{MIB, Pair, noise};

#[test]
fn a_ticket_is_of_use_to_the_first_destination_only() {
    let pair = Pair::new();
    pair.write("a", b"a");
    pair.pull();
    pair.pull();
    let thief = tempfile::tempdir().unwrap();
    let error = pair.try_pull(|request| {
        request.state = thief.path().to_owned();
        request.place.path = "elsewhere".into();
    });
    let refused = |error: &Error, words: &str| matches!(error, Error::Refused(reason) if reason.contains(words));
    assert!(refused(&error.unwrap_err(), "used by another destination"));
    assert_eq!(pair.owners.0.lock().unwrap().len(), 1);
    let other = Secret::generate().unwrap().text();
    let error = pair.try_pull(|request| request.ticket.key = other).unwrap_err();
    assert!(refused(&error, "not valid"), "{error}");
    let error = pair.try_pull(|request| request.ticket.offer = "f".repeat(32)).unwrap_err();
    assert!(refused(&error, "not valid"), "{error}");
    let certificate = Certificate::generate().unwrap().fingerprint();
    let error = pair.try_pull(|request| request.ticket.fingerprint = certificate).unwrap_err();
    assert!(refused(&error, "another certificate"), "{error}");
    assert!(!pair.directory.path().join("elsewhere/a").exists());
}

#[test]
fn strangers_give_way_and_are_closed_in_time() {
    let limits = Limits { strangers: 4, handshake_seconds: 1, ..Limits::default() };
    let pair = Pair::with(limits, |_| {});
    pair.write("a", &noise(1, 2 * MIB));
    let connect = || TcpStream::connect(pair.server.address()).unwrap();
    let mut silent: Vec<_> = (0..40).map(|_| connect()).collect();
    let mut noisy = connect();
    let _ = noisy.write_all(&noise(3, 1 << 16));
    pair.pull();
    pair.assert_equal();
    let begin = Instant::now();
    for stranger in &mut silent {
        stranger.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Closed, with or without a reset.
        assert!(matches!(stranger.read(&mut [0]), Ok(0) | Err(_)));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn an_offer_that_expired_or_was_withdrawn_serves_nobody() {
    let pair = Pair::with(Limits::default(), |offer| offer.expires_at = 1);
    let refused = |words: &str| {
        let error = pair.try_pull(|_| {}).unwrap_err();
        assert!(matches!(&error, Error::Refused(reason) if reason.contains(words)), "{error}");
    };
    refused("expired");
    assert!(pair.server.revoke(support::ID));
    assert!(!pair.server.revoke(support::ID));
    refused("not valid");
}

#[test]
fn withdrawing_an_offer_cuts_its_connections_at_once() {
    let pair = Pair::with(Limits::default(), |offer| offer.bytes_per_second = Some(8 << 20));
    pair.write("large", &noise(1, 100 * MIB));
    let request = pair.request();
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&request, &progress));
        while pair.server.status()[0].sent_bytes == 0 {
            assert!(!pulling.is_finished());
            std::thread::sleep(Duration::from_millis(5));
        }
        let begin = Instant::now();
        assert!(pair.server.revoke(support::ID));
        let error = pulling.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn a_pull_that_is_cancelled_ends_soon_and_continues_later() {
    let pair = Pair::with(Limits::default(), |offer| offer.bytes_per_second = Some(20 << 20));
    pair.write("large", &noise(1, 30 * MIB));
    let request = pair.request();
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&request, &progress));
        while progress.bytes_done() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let begin = Instant::now();
        progress.cancel();
        let error = pulling.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Engine(holdfast_engine::Error::Cancelled)), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(3));
    });
    pair.pull();
    pair.assert_equal();
}
