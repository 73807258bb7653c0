Get-VMProcessor -VMName Server2016 | fl *
