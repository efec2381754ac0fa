"""What tests share: daemons, disks, file systems, servers, terminals and waiting."""
