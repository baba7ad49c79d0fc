"Inputs as nobody should make them, in kinds, and a cell in which each is given to the library and watched."
