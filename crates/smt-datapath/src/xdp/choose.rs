//! Which device is meant.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::OpenError;
use crate::sys::device::{self, Device};

/// The device that has the address, or for a wildcard the only one there is or else the one of the
/// default route.
pub(crate) fn choose_device(bind: IpAddr) -> Result<Device, OpenError> {
    let mut devices = device::devices().map_err(OpenError::io("list the devices"))?;
    devices.retain(|device| device.is_ethernet);
    let of = |address: IpAddr| {
        devices.iter().find(|device| device.addresses.contains(&address)).cloned()
    };
    if !bind.is_unspecified() {
        return of(bind).ok_or(OpenError::NoDevice(bind));
    }
    let mut usable = devices.iter().filter(|device| {
        device.is_up && device.addresses.iter().any(|a| a.is_ipv4() == bind.is_ipv4())
    });
    match (usable.next(), usable.next()) {
        (Some(device), None) => Ok(device.clone()),
        _ => default_source(bind).and_then(of).ok_or(OpenError::NoDevice(bind)),
    }
}

/// Our address towards the rest of the world.
fn default_source(any: IpAddr) -> Option<IpAddr> {
    let outside: SocketAddr = match any {
        IpAddr::V4(_) => ([192, 0, 2, 1], 9).into(),
        IpAddr::V6(_) => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(outside).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
