//! The devices of the calling thread's network namespace.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;

use super::address;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Its packets are Ethernet frames; loopback's are not.
    pub(crate) is_ethernet: bool,
    pub(crate) is_up: bool,
    pub(crate) addresses: Vec<IpAddr>,
}

/// All devices with their addresses.
pub(crate) fn devices() -> io::Result<Vec<Device>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer leads to a place for the list.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut devices: Vec<Device> = Vec::new();
    let mut addresses: Vec<(String, IpAddr)> = Vec::new();
    let mut next = list;
    // SAFETY: the list ends with a null pointer, and its items stay until they are freed.
    while let Some(item) = unsafe { next.as_ref() } {
        next = item.ifa_next;
        // SAFETY: every item has a name, which ends with a zero.
        let name = unsafe { CStr::from_ptr(item.ifa_name) }.to_string_lossy().into_owned();
        if item.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: an address, if there is one, begins with its family.
        let family = i32::from(unsafe { (*item.ifa_addr).sa_family });
        if family == libc::AF_PACKET {
            // SAFETY: an address of this family is such a structure; it may be less aligned.
            let link = unsafe { item.ifa_addr.cast::<libc::sockaddr_ll>().read_unaligned() };
            devices.push(Device {
                name,
                index: u32::try_from(link.sll_ifindex).unwrap_or(0),
                is_ethernet: link.sll_hatype == libc::ARPHRD_ETHER && link.sll_halen == 6,
                is_up: item.ifa_flags & libc::IFF_UP as u32 != 0,
                addresses: Vec::new(),
            });
        } else if let Some(len) = address::len(family) {
            // SAFETY: an address of either family has as many bytes.
            let raw = unsafe { std::slice::from_raw_parts(item.ifa_addr.cast::<u8>(), len) };
            addresses.extend(address::decode(raw).map(|address| (name, address.ip())));
        }
    }
    // SAFETY: the list came from `getifaddrs` and is freed once; nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    for (name, address) in addresses {
        // Addresses with a label of their own (`eth0:1`) are the device's all the same.
        let name = name.split(':').next().unwrap_or_default();
        if let Some(device) = devices.iter_mut().find(|device| device.name == name) {
            device.addresses.push(address);
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_device() {
        let devices = devices().unwrap();
        let lo = devices.iter().find(|device| device.name == "lo").unwrap();
        assert!(!lo.is_ethernet && lo.index > 0);
    }
}
