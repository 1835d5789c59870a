//! Who holds what: partitions, the placement solver and the layout document.
