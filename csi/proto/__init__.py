"""CSI 1.12: `csi.proto` and its licence as published, and the stubs that `make proto` makes of it."""
