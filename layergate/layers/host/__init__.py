"""The layer that the processes of one host share: a folder, no server.

`HostLayer` is what users construct. A log of purges (`journal`, `log`), leases (`leases`), and entries
(`entries`) lie in files of the folder. `folder` says where the folder is and who may use it.
"""
