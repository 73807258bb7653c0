Set-VMProcessor -VMName Server2016 -ExposeVirtualizationExtensions $true
