package hello

// GrowSubsystem lets the file system of the machine's own disk have all of that
// disk, which has become larger. It takes and answers nothing.
const GrowSubsystem = "grow@banger"
