//! Joins the socket that is its standard input to the Unix socket that its argument names: a story
//! starts it in another process's place, and is then taken for that process by who listens there.

use std::{
    env, io,
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread,
};

fn main() -> io::Result<()> {
    let path =
        env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: vsecm-relay SOCKET"))?;
    let mut far = UnixStream::connect(path)?;
    let mut near = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut from_near, mut to_far) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || {
        io::copy(&mut from_near, &mut to_far)?;
        to_far.shutdown(Shutdown::Write)
    });
    io::copy(&mut far, &mut near)?;
    Ok(())
}
