package main

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// newEtcdCommand runs one member of etcd on loopback. Nothing is synced to disk: no test outlives a power cut.
func newEtcdCommand() *cobra.Command {
	var folder string
	var clients, peers int
	command := &cobra.Command{Use: "etcd", SilenceUsage: true, RunE: func(*cobra.Command, []string) error {
		return runEtcd(configure(folder, clients, peers))
	}}
	command.Flags().StringVar(&folder, "data-dir", "etcd-data", "where its data is")
	command.Flags().IntVar(&clients, "client-port", 2379, "its port on 127.0.0.1")
	command.Flags().IntVar(&peers, "peer-port", 2380, "its port for other members on 127.0.0.1")
	return command
}

func configure(folder string, clients, peers int) *embed.Config {
	config := embed.NewConfig()
	config.Dir = folder
	config.ListenClientUrls, config.AdvertiseClientUrls = loopback(clients), loopback(clients)
	config.ListenPeerUrls, config.AdvertisePeerUrls = loopback(peers), loopback(peers)
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	// Else every request is logged as slow.
	config.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	return config
}

func loopback(port int) []url.URL {
	return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
}

func runEtcd(config *embed.Config) error {
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer etcd.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-stop:
		return nil
	case err := <-etcd.Err():
		return err
	}
}
