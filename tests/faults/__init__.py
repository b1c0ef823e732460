"""The command under faults: kills, full disks, drawn configurations, damaged folders, odd images."""
