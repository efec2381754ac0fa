//! A proxy that cuts connections at a byte, or flips a bit in one.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Forwards connections, and disturbs them.
pub struct Disturber {
    pub address: SocketAddr,
    pub budget: Arc<AtomicI64>,
    pub cuts: Arc<AtomicU64>,
    pub flip: Arc<AtomicBool>,
}

impl Disturber {
    pub fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let budget = Arc::new(AtomicI64::new(i64::MAX));
        let (cuts, flip) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let disturber = Self { address, budget, cuts, flip };
        let (budget, cuts, flip) =
            (disturber.budget.clone(), disturber.cuts.clone(), disturber.flip.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(to) else { continue };
                for (from, into) in [(&socket, &server), (&server, &socket)] {
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    let (budget, cuts, flip) = (budget.clone(), cuts.clone(), flip.clone());
                    std::thread::spawn(move || forward(from, into, &budget, &cuts, &flip));
                }
            }
        });
        disturber
    }
}

fn forward(
    mut from: TcpStream,
    mut into: TcpStream,
    budget: &AtomicI64,
    cuts: &AtomicU64,
    flip: &AtomicBool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(mut length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let left = budget.fetch_sub(length as i64, Ordering::Relaxed);
        let over = left > 0 && left <= length as i64;
        if over && flip.load(Ordering::Relaxed) {
            buffer[left as usize - 1] ^= 0x10;
        } else if over {
            length = left as usize - 1;
        }
        if into.write_all(&buffer[..length]).is_err() {
            break;
        }
        if over && !flip.load(Ordering::Relaxed) {
            cuts.fetch_add(1, Ordering::Relaxed);
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = into.shutdown(Shutdown::Both);
}
