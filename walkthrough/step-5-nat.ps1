New-VMSwitch -Name “NAT-Switch” -SwitchType Internal
New-NetNat -Name “NAT-net” –InternalIPInterfaceAddressPrefix ‘192.168.100.0/24’
Get-NetAdapter | ft -Autosize
Get-NetAdapter “vEthernet (NAT-Switch)” | New-NetIPAddress -IPAddress 192.168.100.1 -AddressFamily IPv4 -PrefixLength 24
