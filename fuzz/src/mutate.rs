//! New inputs from known ones: JSON is changed as JSON, everything else as bytes.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::json;

/// Longest input that is made. Bodies beyond the limits of the clients are the business of their own tests.
const MAX_BYTES: usize = 256 * 1024;

/// Pieces that mean something to one parser or another.
const PIECES: &[&[u8]] = &[
    b"\xef\xbb\xbf",
    b"\xcf\xf0\xe8\xe2\xe5\xf2",
    b"\x00",
    b"\x1b[2J",
    b"\r\n",
    b"\n\n",
    b"<br />\n<b>Warning</b>:  Undefined array key 0 in <b>/home/bitrix/x.php</b><br />\n",
    b"}<!-- 0.01 -->",
    "\u{202e}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{a0}".as_bytes(),
    "\u{200d}".as_bytes(),
    "и\u{306}".as_bytes(),
    "٣".as_bytes(),
    "８".as_bytes(),
    "–".as_bytes(),
    "доб. 7".as_bytes(),
    b"+7",
    b"8 (926) 123-45-67",
    b"e-400",
    b"1e400",
    b"-0",
    b"NaN",
    b"T24:00:60+99:00",
    b"2009-02-29",
    b"31.02.2010",
    b"200\n",
    b"503 ",
    b"create_client ",
    b"ce-rawsequence: 18446744073709551616\n",
    b"ce-subject: contact/0\n",
    b"ce-modified: +262143-12-31T23:59:59+00:00\n",
    b"[[contact.branches]]\n",
    b"id = 0\n",
    b"\"\"\"",
    b"NATS_URL=",
    b"SYNC_LAG=99999999999999999y\n",
    b"PORTAL_CLOCK_SPEED=nan\n",
];

/// Makes inputs; the same seed and the same pool give the same ones.
pub struct Mutator {
    dice: ChaCha8Rng,
}

impl Mutator {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Mutator {
        Mutator { dice: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Makes an input from one or two of a pool.
    pub fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(pool).to_vec();
        for _ in 0..self.dice.random_range(1..4) {
            let other = self.pick(pool).to_vec();
            input = self.change(input, &other);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn pick<'p>(&mut self, pool: &'p [Vec<u8>]) -> &'p [u8] {
        match pool {
            [] => &[],
            pool => &pool[self.dice.random_range(0..pool.len())],
        }
    }

    fn change(&mut self, input: Vec<u8>, other: &[u8]) -> Vec<u8> {
        if self.dice.random_range(0..3) > 0 {
            let (head, body) = split(&input);
            let (_, other) = split(other);
            if let Some(body) = body.and_then(|body| json::mutate(body, other, &mut self.dice)) {
                return [head, body.as_bytes()].concat();
            }
        }
        self.change_bytes(input, other)
    }

    fn change_bytes(&mut self, mut input: Vec<u8>, other: &[u8]) -> Vec<u8> {
        let at = self.dice.random_range(0..=input.len());
        let until = self.dice.random_range(at..=input.len().min(at + 64));
        match self.dice.random_range(0..7) {
            0 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] = self.dice.random();
            }
            1 => drop(input.drain(at..until)),
            2 => {
                let again = input[at..until].repeat(self.dice.random_range(1..50));
                input.splice(at..at, again);
            }
            3 => input.truncate(at),
            4 => {
                let from = self.dice.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let piece = PIECES[self.dice.random_range(0..PIECES.len())];
                input.splice(at..until, piece.iter().copied());
            }
        }
        input
    }
}

/// Parts an input into what stands before its JSON, and the JSON.
fn split(input: &[u8]) -> (&[u8], Option<&str>) {
    let start = input.iter().position(|byte| matches!(byte, b'{' | b'['));
    let (head, body) = input.split_at(start.unwrap_or(input.len()));
    (head, std::str::from_utf8(body).ok().filter(|body| !body.is_empty()))
}
