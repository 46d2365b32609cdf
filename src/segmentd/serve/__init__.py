"""The composition root: builds and wires everything, starts and watches the processes."""
