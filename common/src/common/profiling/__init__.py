"""Time per layer of a network, and the roofline that bounds it: the parts of :mod:`common.profile`."""
