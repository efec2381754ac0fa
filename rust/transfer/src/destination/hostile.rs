//! Sources that lie: the destination refuses them and nothing of theirs is visible. Destinations that
//! lie: the source sends nothing that it did not list.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::Progress;
use holdfast_engine::RootPath;
use holdfast_engine::manifest::record::Type;
use rustls::ServerConnection;
use xxhash_rust::xxh3::xxh3_64;

use super::connect::Caller;
use super::{Proof, Request, pull};
use crate::channel::Channel;
use crate::message::{
    BlockHead, End, Have, Kind, LIMIT, Listed, Loss, Metadata, Reply, Small, Spent, Stamp, Table,
    Want, head, pack,
};
use crate::testing::offer;
use crate::{Bound, Certificate, Error, Events, Secret, Ticket, message, tls};

/// What a source sends as data.
type Lie = Box<dyn Fn(&mut Channel) -> crate::Result<()> + Send + Sync>;

/// A source that answers as it likes: a listing, and what it sends.
struct Liar {
    listing: Vec<Listed>,
    data: Lie,
}

fn line(path: &str, kind: Type, size: u64, link: Option<&str>) -> Listed {
    let carried = matches!(kind, Type::Directory | Type::Symlink);
    Listed {
        path: path.as_bytes().into(),
        kind,
        stamp: Stamp { size, ..Stamp::default() },
        metadata: carried.then(|| Box::new(Metadata { mode: 0o755, ..Metadata::default() })),
        link: link.map(|link| link.as_bytes().into()),
    }
}

fn with_top(lines: Vec<Listed>) -> Vec<Listed> {
    std::iter::once(line("", Type::Directory, 0, None)).chain(lines).collect()
}

fn serve(liar: &Liar, socket: TcpStream, config: &Arc<rustls::ServerConfig>) -> crate::Result<()> {
    let stop = || false;
    let tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut channel = Channel::server(tls, socket, Duration::from_secs(10))?;
    channel.handshake(&stop)?;
    let message::Request::Hello(hello) = channel.receive_message(LIMIT, &stop)? else {
        return Ok(());
    };
    channel.send(&Reply::Welcome, &stop)?;
    if hello.data {
        (liar.data)(&mut channel)?;
        // Until the destination leaves.
        let _ = channel.receive_head(&stop);
        return Ok(());
    }
    loop {
        if channel.receive_message::<message::Request>(LIMIT, &stop)? == message::Request::Survey {
            let count = liar.listing.len() as u64 - 1;
            channel.send(&Reply::Listed(liar.listing.clone()), &stop)?;
            channel.send(&Reply::Surveyed { count, left_out: Vec::new() }, &stop)?;
        }
    }
}

/// Pull from a liar; the destination must have refused it, and be empty.
fn refuse(
    listing: Vec<Listed>,
    data: impl Fn(&mut Channel) -> crate::Result<()> + Send + Sync + 'static,
) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    let certificate = Certificate::generate().unwrap();
    let config = tls::server(&certificate).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let liar = Arc::new(Liar { listing, data: Box::new(data) });
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (liar, config) = (Arc::clone(&liar), Arc::clone(&config));
            std::thread::spawn(move || serve(&liar, socket, &config));
        }
    });
    let request = Request {
        ticket: Ticket {
            version: 1,
            offer: "0".repeat(32),
            addresses: vec!["127.0.0.1".to_owned()],
            port,
            fingerprint: certificate.fingerprint(),
            key: Secret::generate().unwrap().text(),
            path: String::new(),
            expires_at: u64::MAX,
        },
        place: RootPath { root: directory.path().to_owned(), path: "destination".into() },
        state: directory.path().join("state"),
        connections: 1,
        most_connections: 1,
        overrule_writers: false,
        page_cache: None,
        map_owners: false,
        accounts: "/etc".into(),
        proof: Proof::Wire,
        bytes_per_second: None,
        passes: 1,
        until_remaining: 0,
        complete: false,
        manifest: None,
        patience_seconds: 0,
    };
    let error = pull(&request, &Progress::default()).unwrap_err();
    let names = std::fs::read_dir(directory.path().join("destination")).unwrap();
    let visible = names.flatten().filter(|name| name.file_name() != super::staging::STAGING);
    assert_eq!(visible.count(), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    match error {
        Error::Protocol { reason, .. } => reason,
        error @ Error::Damaged { .. } => error.to_string(),
        error => panic!("{error:?}"),
    }
}

#[test]
fn listings_that_lead_elsewhere_are_refused() {
    let file = |path| line(path, Type::File, 1, None);
    let link = |path, to| line(path, Type::Symlink, 0, Some(to));
    let large = line("a", Type::File, u64::MAX, None);
    let listings = [
        vec![file("../a")],
        vec![file("/a")],
        vec![file(".holdfast-transfer/0000000000000000")],
        vec![file("a/b")],
        vec![link("a", "/"), file("a/b")],
        vec![file("b"), file("a")],
        vec![file("a"), file("a")],
        vec![large],
        vec![line("a", Type::File, 1, Some("elsewhere"))],
        vec![link("a", "x\0y")],
        vec![line("a", Type::Directory, 0, None), file("a/..")],
    ];
    for listing in listings {
        let shown = format!("{listing:?}");
        let reason = refuse(with_top(listing), |_| Ok(()));
        assert!(reason.starts_with("it lists") || reason.starts_with("its listing"), "{shown}");
    }
    let reason = refuse(vec![file("a")], |_| Ok(()));
    assert!(reason.contains("does not begin"), "{reason}");
}

fn end(want: u32, size: u64) -> End {
    let stamp = Stamp { size, ..Stamp::default() };
    End { want, digest: 1, stamp, metadata: Metadata { mode: 0o600, ..Metadata::default() } }
}

fn block(channel: &mut Channel, want: u32, offset: u64, data: &[u8]) -> crate::Result<()> {
    let head = BlockHead { want, offset, sparse: true, check: xxh3_64(data) };
    channel.send_frame(Kind::Block, &[&head.bytes(), data], &|| false)
}

#[test]
fn data_that_lie_about_sizes_and_places_are_refused() {
    let small = |want, length: usize| {
        move |channel: &mut Channel| {
            let files = [Small { end: end(want, length as u64), length: length as u32 }];
            channel.send_frame(Kind::Pack, &[&pack(&files, &vec![0; length])], &|| false)
        }
    };
    let say = |message: Reply| move |channel: &mut Channel| channel.send(&message, &|| false);
    let lies: [(u64, Lie); 12] = [
        (300 << 10, Box::new(|channel| block(channel, 0, (300 << 10) - 1, b"ab"))),
        (300 << 10, Box::new(|channel| block(channel, 0, u64::MAX, b"ab"))),
        (300 << 10, Box::new(|channel| block(channel, 7, 0, b"ab"))),
        (
            300 << 10,
            Box::new(|channel| {
                block(channel, 0, 0, b"ab")?;
                block(channel, 0, 1, b"b")
            }),
        ),
        (300 << 10, Box::new(say(Reply::Hole { want: 0, offset: 1, length: u64::MAX }))),
        (300 << 10, Box::new(say(Reply::End(end(0, 1))))),
        (300 << 10, Box::new(say(Reply::Chunk { want: 0, index: 9, digest: 0, state: None }))),
        (
            300 << 10,
            Box::new(say(Reply::Compared {
                want: 0,
                table: Table::default(),
                differing: vec![u32::MAX],
            })),
        ),
        (300 << 10, Box::new(say(Reply::Over(Spent::default())))),
        (9, Box::new(small(0, 10))),
        (9, Box::new(small(3, 9))),
        (
            9,
            Box::new(|channel| {
                let _ = head(Kind::Block, LIMIT);
                channel.send_frame(Kind::Block, &[&vec![0; LIMIT + 1]], &|| false)
            }),
        ),
    ];
    for (size, lie) in lies {
        refuse(with_top(vec![line("a", Type::File, size, None)]), lie);
    }
}

#[test]
fn bytes_that_change_in_memory_are_found_before_they_are_written() {
    let size = 300 << 10;
    let reason = refuse(with_top(vec![line("a", Type::File, size, None)]), |channel| {
        // The channel carries them as they were handed to it; the check was computed before.
        let mut data = vec![7; 1000];
        let check = xxh3_64(&data);
        data[500] ^= 1;
        let head = BlockHead { want: 0, offset: 0, sparse: true, check };
        channel.send_frame(Kind::Block, &[&head.bytes(), &data], &|| false)
    });
    assert!(reason.contains("1000 bytes at 0 differ from what the source sent"), "{reason}");
}

/// Stores nothing, and lets anyone in.
struct Anyone;

impl Events for Anyone {
    fn bind(&self, _: &str, _: &str) -> Bound {
        Bound::Stored
    }
}

#[test]
fn destinations_that_ask_for_what_is_not_offered_get_nothing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("source")).unwrap();
    std::fs::write(directory.path().join("source/in"), vec![1; 5000]).unwrap();
    std::fs::write(directory.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", directory.path().join("source/link")).unwrap();
    let (server, ticket) = offer(directory.path(), Arc::new(Anyone));
    let stop = || false;
    let puller = Secret::generate().unwrap();
    let patience = Duration::from_secs(10);
    let caller =
        |session| Caller { ticket: &ticket, puller: &puller, session, patience, stop: &stop };
    let mut control = caller([7; 16]).connect(false).unwrap();
    let mut data = caller([7; 16]).connect(true).unwrap();
    // A connection that carries data belongs to a session.
    let refused = caller([8; 16]).connect(true).unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    // Nothing was listed yet.
    let go = message::Request::Go { connections: 1, bytes_per_second: None, proof: Proof::Wire };
    let want = |path: &str, size| Want {
        path: path.as_bytes().into(),
        stamp: Stamp { size, ..Stamp::default() },
        have: Have::Prefix(Box::new(Table { digests: vec![1; 9], states: vec![[0; 4]; 9] })),
    };
    let mut ask = |paths: &[(&str, u64)], survey: bool| {
        if survey {
            control.send(&message::Request::Survey, &stop).unwrap();
            while !matches!(control.receive_message(LIMIT, &stop).unwrap(), Reply::Surveyed { .. })
            {
            }
        }
        let wants = paths.iter().map(|(path, size)| want(path, *size)).collect();
        control.send(&message::Request::Want(wants), &stop).unwrap();
        control.send(&go, &stop).unwrap();
        let mut losses = Vec::new();
        loop {
            match data.receive_message::<Reply>(LIMIT, &stop).unwrap() {
                Reply::Lost(_, loss) => losses.push(loss),
                Reply::Over(_) => return losses,
                Reply::Wait | Reply::Spent(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let unlisted = |loss: &Loss| matches!(loss, Loss::Error(words) if words == "it was not listed");
    assert!(ask(&[("in", 5000)], false).iter().all(unlisted));
    let paths = ["../secret", "/etc/hostname", "secret", "in/../../secret", "", "in/", "link/x"];
    let losses = ask(&paths.map(|path| (path, 6)), true);
    assert_eq!(losses.len(), paths.len());
    assert!(losses.iter().all(unlisted), "{losses:?}");
    // Sizes that lie, and a link that leads out.
    let losses = ask(&[("in", u64::MAX), ("in", 1), ("link", 6)], true);
    assert!(losses.iter().all(|loss| *loss == Loss::Changed), "{losses:?}");
    assert_eq!(losses.len(), 3);
    // A frame without an end.
    let _ = control.send_frame(Kind::Message, &[&vec![0; LIMIT + 1]], &stop);
    assert!(control.receive_head(&stop).is_err());
    assert_eq!(server.status()[0].sent_bytes, 0);
}
