//! One step of a plan, done in the kernel.

use std::{fs, io, net::IpAddr, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, CacheInfo},
        link::BridgeStpState,
        route::RouteMessage,
    },
};

use crate::{
    diff::Step,
    nft::{Nft, NftError},
    read::{FORWARDING_PATH, io_error, ipv6_path},
    state::{Address, PROTOCOL_OURS, Route},
    tap,
};

/// The kernel answers at once; a connection that broke must not hold the node.
const DEADLINE: Duration = Duration::from_secs(90);

#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Kernel(#[from] io::Error),
    #[error(transparent)]
    Nft(#[from] NftError),
}

pub(crate) struct Kernel<'a> {
    pub handle: &'a Handle,
    pub nft: &'a mut Nft,
    pub tap_owner: Option<u32>,
}

/// What is so already counts as done: others work on the same kernel.
fn unless(result: io::Result<()>, fine: &[rustix::io::Errno]) -> io::Result<()> {
    match result {
        Err(e) if e.raw_os_error().is_some_and(|code| fine.iter().any(|f| f.raw_os_error() == code)) => {
            Ok(())
        }
        other => other,
    }
}

impl Kernel<'_> {
    pub async fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        match tokio::time::timeout(DEADLINE, self.apply_inner(step)).await {
            Ok(result) => result,
            Err(_) => Err(StepError::Kernel(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn apply_inner(&mut self, step: &Step) -> Result<(), StepError> {
        use rustix::io::Errno;
        const GONE: [Errno; 5] = [Errno::NODEV, Errno::NXIO, Errno::NOENT, Errno::SRCH, Errno::ADDRNOTAVAIL];
        match step {
            Step::LoadRules { rules } => self.nft.load(rules).await?,
            Step::CreateBridge { link, mac } => self.create_bridge(link, *mac).await?,
            Step::CreateTap { link } => tap::create(link, self.tap_owner)?,
            Step::SetMac { link, mac } => {
                let index = self.index(link).await?;
                self.change(LinkUnspec::new_with_index(index).address(mac.to_vec())).await?;
            }
            Step::SetIpv6 { link, on } => {
                let value = if *on { "0" } else { "1" };
                // A kernel without IPv6 has nothing to switch off.
                unless(fs::write(ipv6_path(link), value), &[Errno::NOENT])?;
            }
            Step::SetUp { link, up: true } => {
                let index = self.index(link).await?;
                self.change(LinkUnspec::new_with_index(index).up()).await?;
            }
            Step::SetUp { link, up: false } => unless(self.set_down(link).await, &GONE)?,
            Step::SetMaster { link, master: Some(master) } => {
                let (index, master) = (self.index(link).await?, self.index(master).await?);
                self.change(LinkUnspec::new_with_index(index).controller(master)).await?;
            }
            Step::SetMaster { link, master: None } => unless(self.unplug(link).await, &GONE)?,
            Step::AddAddress { link, address } => {
                unless(self.add_address(link, address).await, &[Errno::EXIST])?;
            }
            Step::RemoveAddress { link, address } => {
                unless(self.remove_address(link, address).await, &GONE)?;
            }
            Step::AddRoute { link, route } => unless(self.add_route(link, route).await, &[Errno::EXIST])?,
            Step::RemoveRoute { link, route } => unless(self.remove_route(link, route).await, &GONE)?,
            Step::SetForwarding { on } => fs::write(FORWARDING_PATH, if *on { "1" } else { "0" })?,
            Step::DeleteLink { link } => unless(self.delete(link).await, &GONE)?,
        }
        Ok(())
    }

    async fn index(&self, link: &str) -> io::Result<u32> {
        let found = self.handle.link().get().match_name(link).execute().try_next().await.map_err(io_error)?;
        found.map(|m| m.header.index).ok_or_else(|| rustix::io::Errno::NODEV.into())
    }

    async fn change<T>(&self, message: LinkMessageBuilder<T>) -> io::Result<()> {
        self.handle.link().change(message.build()).execute().await.map_err(io_error)
    }

    async fn set_down(&self, link: &str) -> io::Result<()> {
        let index = self.index(link).await?;
        self.change(LinkUnspec::new_with_index(index).down()).await
    }

    async fn unplug(&self, link: &str) -> io::Result<()> {
        let index = self.index(link).await?;
        self.change(LinkUnspec::new_with_index(index).nocontroller()).await
    }

    async fn delete(&self, link: &str) -> io::Result<()> {
        let index = self.index(link).await?;
        self.handle.link().del(index).execute().await.map_err(io_error)
    }

    /// No spanning tree and no delay: a port works at once. No multicast snooping: without a querier
    /// it loses neighbour discovery between nested switches.
    async fn create_bridge(&self, link: &str, mac: Option<[u8; 6]>) -> io::Result<()> {
        let mut message = LinkMessageBuilder::<LinkBridge>::new(link)
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .mcast_snooping(false);
        if let Some(mac) = mac {
            message = message.address(mac.to_vec());
        }
        self.handle.link().add(message.build()).execute().await.map_err(io_error)
    }

    async fn add_address(&self, link: &str, address: &Address) -> io::Result<()> {
        let index = self.index(link).await?;
        let mut request = self.handle.address().add(index, address.ip, address.prefix_len);
        let attributes = &mut request.message_mut().attributes;
        attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
        attributes.extend(address.broadcast.map(AddressAttribute::Broadcast));
        if address.ours {
            attributes.push(AddressAttribute::Protocol(PROTOCOL_OURS.into()));
        }
        if let Some(seconds) = address.valid_seconds {
            let mut info = CacheInfo::default();
            (info.ifa_valid, info.ifa_preferred) = (seconds, seconds);
            attributes.push(AddressAttribute::CacheInfo(info));
        }
        request.execute().await.map_err(io_error)
    }

    async fn remove_address(&self, link: &str, address: &Address) -> io::Result<()> {
        let index = self.index(link).await?;
        let mut request = self.handle.address().add(index, address.ip, address.prefix_len);
        let message = request.message_mut().clone();
        self.handle.address().del(message).execute().await.map_err(io_error)
    }

    /// Appended, so that the same destination may lead through two interfaces for a moment.
    async fn add_route(&self, link: &str, route: &Route) -> io::Result<()> {
        let message = route_message(self.index(link).await?, route)?;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(request).map_err(io_error)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(error.to_io());
            }
        }
        Ok(())
    }

    async fn remove_route(&self, link: &str, route: &Route) -> io::Result<()> {
        let message = route_message(self.index(link).await?, route)?;
        self.handle.route().del(message).execute().await.map_err(io_error)
    }
}

fn route_message(index: u32, route: &Route) -> io::Result<RouteMessage> {
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "the route mixes IPv4 and IPv6");
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.addr(), route.destination.prefix_len())
        .map_err(invalid)?
        .output_interface(index)
        .protocol(route.protocol.into())
        .scope(route.scope.into());
    if route.metric != 0 {
        builder = builder.priority(route.metric);
    }
    if let Some(gateway) = route.gateway {
        builder = builder.gateway(gateway).map_err(invalid)?;
    }
    if let Some(source) = route.source {
        builder = builder.pref_source(source).map_err(invalid)?;
    }
    if route.onlink {
        builder = builder.onlink();
    }
    Ok(builder.build())
}
