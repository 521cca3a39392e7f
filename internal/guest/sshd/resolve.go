package sshd

import "syscall"

// Resolve finds what it takes to start a program as an image's program is
// started: its file, by the PATH of env, and its environment and user. who is
// user[:group] as of this root; HOME is theirs unless env has one. StartStatus
// tells the exit status for the error.
func Resolve(name, dir, who string, env []string) (file string, environ []string, cred *syscall.Credential, err error) {
	u, err := (&Server{}).lookupUser(who)
	if err != nil {
		return "", nil, nil, notRunnable("%s", err)
	}
	environ = environment([]string{"PATH=" + defaultPath, "HOME=" + u.home}, env)
	file, err = lookProgram(name, dir, environ)
	return file, environ, &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}, err
}

// StartStatus is the exit status that shells have for a program that could not
// be started: 127 if it was not found, else 126.
func StartStatus(err error) int { return startStatus(err) }
